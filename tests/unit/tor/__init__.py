"""Tests of torknock.tor."""
