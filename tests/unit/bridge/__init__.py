"""Tests of the bridge's transport, with a gate in memory: what opens when, what is spent, what is counted."""
