"""Tests of torknock.bridge.filter."""
