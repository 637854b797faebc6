"""Tests of torknock.privileged.gate."""
