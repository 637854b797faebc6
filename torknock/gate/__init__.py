"""The door of a bridge: who gets past the SYN (protocol.md §2.3)."""
