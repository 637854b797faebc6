"""Tests of `pluggable`."""
