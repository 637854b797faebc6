"""What runs behind the handshake (protocol.md §3)."""
