"""Tests of torknock.protocol."""
