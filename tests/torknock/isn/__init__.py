"""Tests of torknock.isn."""
