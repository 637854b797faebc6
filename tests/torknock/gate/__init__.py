"""Tests of torknock.gate."""
