"""Tests of pluggable."""
