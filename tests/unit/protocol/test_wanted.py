"""Tests of torknock.protocol.wanted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.wanted import Wanted


class WantedTests(SynchronousTestCase):
    """`Wanted`."""

    def test_a_gate_that_was_told_nothing_lets_nothing_in(self) -> None:
        """And asks about no SYN: it fails closed."""
        self.assertEqual((Wanted().judging, Wanted().pages), (False, ()))
