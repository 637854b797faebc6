"""Tests of torknock.client."""
