"""Tests of set-up: what it writes where, and that each change is undone, also after an interruption."""
