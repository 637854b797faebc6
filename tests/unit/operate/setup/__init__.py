"""Tests of torknock.operate.setup."""
