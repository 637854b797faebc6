"""Tests of torknock.kernel."""
