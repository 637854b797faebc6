"""Tests of the protocol: vectors of other implementations, and properties of every input."""
