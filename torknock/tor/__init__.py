"""What a running tor is asked, and what its answers mean."""

CONTROL = "/run/tor/control"
"""Where Debian's tor takes commands."""
