"""Tests with a real tor: a private Tor network, and Debian machines that are set up and undone. Needs root."""
