"""Tests of torknock.dial."""
