"""Tests of torknock.operate."""
