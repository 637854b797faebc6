"""Tests of torknock.bridge."""
