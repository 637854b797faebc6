"""Tests without root: as an ordinary user, in memory or on loopback."""
