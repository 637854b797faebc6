"""The channels: they carry the service's octets behind the TCP handshake (protocol.md §3)."""
