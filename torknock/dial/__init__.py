"""The knock of a client: a SYN whose ISN opens a bridge (protocol.md §2.4)."""
