"""Tests of what operators do, on values and files of their own: no host is changed."""
