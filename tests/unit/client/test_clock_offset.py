"""Tests of torknock.client.clock_offset: what a bridge's answers say of its clock. `test_knocker` has the searches."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from torknock.client.attempts import proving
from torknock.client.clock_offset import ClockOffset
from torknock.protocol.token import EPOCH

DAY = 5_666_667 * EPOCH
"""The first second of an epoch."""


class ClockOffsetTests(SynchronousTestCase):
    """`ClockOffset`."""

    def setUp(self) -> None:
        self.clock, self.ahead = Clock(), float(DAY)
        self.offset = ClockOffset(self.clock, lambda: self.ahead + self.clock.seconds())

    def test_the_middle_of_what_is_possible_is_told_in_minutes(self) -> None:
        """A bridge that took a token of 2 epochs later is in the middle of that epoch, as far as is known."""
        self.clock.advance(30)
        self.assertEqual(self.offset.minutes_slow(), 0)
        self.offset.accepted(2)
        self.assertEqual(self.offset.minutes_slow(), 12)  # 2 x 5 + 2.5 - 0.5
        self.offset.accepted(-3)
        self.assertEqual(self.offset.minutes_slow(), -13)

    def test_an_offset_is_forgotten_when_the_clock_was_set_by_more_than_half_an_epoch(self) -> None:
        """In either direction. By less, what is known opens all the same."""
        for step, forgotten in ((149.0, False), (-149.0, False), (151.0, True), (-151.0, True)):
            self.setUp()
            self.offset.accepted(2)
            self.clock.advance(1000)
            self.ahead += step
            self.assertEqual(self.offset.forget_after_step(), forgotten, step)
            self.assertEqual(self.offset.minutes_slow() == 0, forgotten)
            self.assertFalse(self.offset.forget_after_step() and forgotten)

    def test_neighbours_tokens_are_looked_into_once_in_ten_minutes(self) -> None:
        """A round that found no wrong clock need not be sent again at once."""
        self.clock.advance(10)
        looked_into = []
        for pause, answers in ((0, 2), (0, 2), (599, 1), (1, 1)):
            self.clock.advance(pause)
            for _ in range(answers):
                self.offset.accepted(1)
            looked_into.append(self.offset.offsets(0, 0) == proving(1))
        self.assertEqual(looked_into, [True, False, False, True])

    def test_where_nothing_is_known_a_step_forgets_nothing(self) -> None:
        """A clock may be set before the first knock."""
        self.ahead += 86_400
        self.assertFalse(self.offset.forget_after_step())
