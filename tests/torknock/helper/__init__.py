"""Tests of torknock.helper."""
