"""The transports, joined to tor by `pluggable`."""
