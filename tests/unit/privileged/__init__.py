"""Tests of what runs with CAP_NET_ADMIN, as far as an ordinary user can run it."""
