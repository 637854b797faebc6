"""What a set-up changes on a host, and how it is undone."""
