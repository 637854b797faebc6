"""Tests of `torknock.tor`."""
