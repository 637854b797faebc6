"""What an ISN says: numbers and octets in, numbers out (protocol.md §2, knock.md)."""
