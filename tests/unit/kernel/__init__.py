"""Tests of what Linux provides, as an ordinary user sees it: files, locks, limits, programs, segments."""
