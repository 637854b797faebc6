"""Tests of the gate: its ruleset as text, its packet queue as octets; `tests.kernel` sends the packets."""
