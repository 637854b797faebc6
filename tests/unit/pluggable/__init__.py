"""Tests of the library, part by part, and of a whole transport as the child of a hand-made tor."""
