"""Tests of torknock.keyring."""
