"""Tests of torknock.transport."""
