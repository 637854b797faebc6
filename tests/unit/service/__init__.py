"""Tests of both sides of the privilege line: grammars, peers, access lists, passed descriptors."""
