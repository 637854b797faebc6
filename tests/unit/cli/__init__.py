"""Tests of torknock.cli."""
