"""Tests with a real tor, in a private network (root)."""
