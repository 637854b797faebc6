"""Tests of torknock.kernel.wall_clock."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.wall_clock import is_clock_synchronized


class ClockTests(SynchronousTestCase):
    """`is_clock_synchronized`."""

    def test_the_kernel_is_asked(self) -> None:
        """It answers any process."""
        self.assertIsInstance(is_clock_synchronized(), bool)
