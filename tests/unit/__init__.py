"""Tests without root: in memory or on loopback, as an ordinary user."""
