"""Tests of torknock.bridge.calendar: which clocks are believed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.calendar import SETTLED, Calendar, ClockUnsure, assert_sure


class AssertSureTests(SynchronousTestCase):
    """`assert_sure`."""

    def test_a_clock_that_nothing_has_set_is_doubted_after_boot(self) -> None:
        """Until NTP has set it, or the host has run for so long that it will not."""
        for uptime in (0.0, 10.0, SETTLED - 0.1):
            self.assertRaises(ClockUnsure, assert_sure, uptime, False)
            assert_sure(uptime, True)
        for synchronized in (True, False):
            assert_sure(SETTLED, synchronized)


class CalendarTests(SynchronousTestCase):
    """`Calendar`."""

    def test_a_step_is_followed_within_a_minute(self) -> None:
        """By an hour or a day, forward or back; until then the date goes on."""
        for step in (3600.0, -3600.0, 86_400.0, -86_400.0):
            clock = [1_700_000_000.0, 5.0]
            calendar = Calendar(lambda clock=clock: clock[0], lambda clock=clock: clock[1])  # type: ignore[misc]
            clock[0] += step
            for second in range(60 + 1):
                told = calendar.now()
                self.assertEqual(told, 1_700_000_000.0 + second + (step if second >= 60 else 0.0), step)
                clock[0] += 1
                clock[1] += 1
