"""Tests of torknock.privileged."""
