"""What is asked of a tor that runs."""

CONTROL = "/run/tor/control"
"""Where Debian's tor takes commands."""
