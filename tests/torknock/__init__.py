"""Tests of `torknock` that need no kernel and no tor."""
