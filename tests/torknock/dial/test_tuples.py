"""Tests of torknock.dial.tuples: no 4-tuple twice, and no more memory than was meant."""

from __future__ import annotations

import errno
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.dial.tuples import SAME_TUPLE_AFTER, Pair, Tuples


def pair(number: int) -> Pair:
    """One of many."""
    return ("192.0.2.1", number), ("192.0.2.2", 443)


class TuplesTests(SynchronousTestCase):
    """`Tuples`."""

    @given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 200)), max_size=60))
    def test_as_if_nothing_were_forgotten(self, dials: list[tuple[int, float]]) -> None:
        """It refuses what was dialled within 300 s, and what it could not remember; never more is kept."""
        tuples, dialled, now = Tuples(5), dict[int, float](), 0.0
        for number, pause in dials:
            now += pause
            lately = {each for each, at in dialled.items() if now - at < SAME_TUPLE_AFTER}
            try:
                tuples.take(pair(number), now)
            except OSError as error:
                expected = errno.EADDRNOTAVAIL if number in lately else errno.ENOBUFS
                self.assertEqual(error.errno, expected)
                self.assertTrue(number in lately or len(lately) == 5)
            else:
                self.assertNotIn(number, lately)
                dialled[number] = now
                self.assertEqual(tuples.last(pair(number)), now)
            self.assertLessEqual(len(tuples), 5)

    def test_known(self) -> None:
        """Old ones are known as long as there is room."""
        tuples = Tuples(2)
        for number in range(3):
            self.assertEqual(tuples.last(pair(number)), -inf)
            tuples.take(pair(number), number * SAME_TUPLE_AFTER)
        self.assertEqual([pair(number) in tuples for number in range(3)], [False, True, True])
