"""Tests of the keyring: lines are issued, revoked and expire, and what derived their tokens is erased."""
