"""Tests of torknock.service."""
