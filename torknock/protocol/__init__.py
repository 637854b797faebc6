"""The protocol as code: numbers and octets in, numbers and octets out (protocol.md, knock.md). Pure."""
