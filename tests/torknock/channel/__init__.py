"""Tests of torknock.channel."""
