"""Tests of the commands as a person runs them: what they print, what they refuse, their exit status."""
