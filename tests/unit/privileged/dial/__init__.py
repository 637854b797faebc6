"""Tests of torknock.privileged.dial."""
