"""Tests of torknock.privileged.dial.tuples: no 4-tuple twice, and no more memory than was meant."""

from __future__ import annotations

import errno
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.privileged.dial.ports import Ports
from torknock.privileged.dial.quotas import BURST, PER_SECOND, Quotas
from torknock.privileged.dial.service import EACH
from torknock.privileged.dial.tuples import SAME_TUPLE_AFTER, NoneFree, Pair, Tuples


def pair(number: int) -> Pair:
    """One of many."""
    return ("192.0.2.1", number), ("192.0.2.2", 443)


class TuplesTests(SynchronousTestCase):
    """`Tuples`."""

    @given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 200)), max_size=60))
    def test_as_if_nothing_were_forgotten(self, dials: list[tuple[int, float]]) -> None:
        """It refuses what was dialled within 300 s, and what it could not remember; never more is kept."""
        tuples, dialled, now = Tuples(each=5), dict[int, float](), 0.0
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
            for number in range(9):
                self.assertEqual(tuples.ports(pair(0)).get(number, -inf), tuples.last(pair(number)))
            self.assertEqual(list(tuples.ports(pair(0)).values()), sorted(tuples.ports(pair(0)).values()))

    def test_old_tuples_are_known_while_there_is_room(self) -> None:
        """Old ones are known as long as there is room."""
        tuples = Tuples(each=2)
        for number in range(3):
            self.assertEqual(tuples.last(pair(number)), -inf)
            tuples.take(pair(number), number * SAME_TUPLE_AFTER)
        self.assertEqual([pair(number) in tuples for number in range(3)], [False, True, True])

    def test_who_is_refused_is_told_when_it_is_free_again(self) -> None:
        """The 4-tuple itself, and the oldest of those that the user has dialled."""
        tuples = Tuples(each=2)
        for number, now in ((0, 1000.0), (1, 1100.0)):
            tuples.take(pair(number), now)
        for number, reason in ((1, "used in the last 5 minutes; try again in 250 s"), (2, "try again in 150 s")):
            self.assertIn(reason, str(self.assertRaises(NoneFree, tuples.take, pair(number), 1150.0)))
        tuples.take(pair(2), 1300.0)

    def test_one_user_takes_nothing_of_anothers(self) -> None:
        """Who has dialled too many waits; the next user does not. No 4-tuple comes twice, whoever dialled it."""
        tuples = Tuples(each=3)
        for number in range(3):
            tuples.take(pair(number), 0.0, user=1)
        self.assertEqual(self.assertRaises(OSError, tuples.take, pair(3), 1.0, 1).errno, errno.ENOBUFS)
        self.assertEqual(self.assertRaises(OSError, tuples.take, pair(0), 1.0, 2).errno, errno.EADDRNOTAVAIL)
        tuples.take(pair(3), 1.0, user=2)
        tuples.take(pair(0), SAME_TUPLE_AFTER, user=2)
        tuples.take(pair(4), SAME_TUPLE_AFTER, user=1)
        self.assertEqual(len(tuples), 5)

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 200)), max_size=100))
    def test_any_number_of_users(self, dials: list[tuple[int, int]]) -> None:
        """Memory is bounded, and nobody is refused for what others have dialled."""
        tuples = Tuples(each=10, at_most=8)
        for user, number in dials:
            if tuples.is_free(pair(number), 0.0):
                tuples.take(pair(number), 0.0, user)
            self.assertLessEqual(len(tuples), 8)


class PortsTests(SynchronousTestCase):
    """`Ports`."""

    @given(st.integers(1, 60_000), st.integers(0, 300), st.sets(st.integers(1, 60_300)), st.integers(1, 65_535))
    def test_each_free_port_is_drawn_once(self, low: int, more: int, reserved: set[int], like: int) -> None:
        """Each port, none that is reserved; in the end each once, those of one parity before the others."""
        ports = Ports(low, low + more, frozenset(reserved))
        every = set(range(low, low + more + 1)) - reserved
        drawn = list(ports.drawn(like))
        self.assertEqual(set(drawn), every)
        self.assertEqual(len(ports), len(every))
        walked = drawn[len(drawn) - len(every) :]
        self.assertEqual(set(walked), every)
        parities = [(port - like) % 2 for port in walked]
        self.assertEqual(parities, sorted(parities))


class QuotasTests(SynchronousTestCase):
    """`Quotas`."""

    def test_a_burst_and_then_a_rate(self) -> None:
        """Each user its own; root has none."""
        quotas = Quotas()
        for user in (1, 2):
            self.assertEqual([quotas.wait(user, 0.0) for _ in range(BURST)], [0.0] * BURST)
            self.assertEqual(quotas.wait(user, 0.0), 1 / PER_SECOND)
        self.assertEqual([quotas.wait(0, 0.0) for _ in range(2 * BURST)], [0.0] * 2 * BURST)
        granted = sum(not quotas.wait(1, second / 100) for second in range(30_000))
        self.assertLess(abs(granted - 300 * PER_SECOND), 3)
        self.assertLess(BURST + granted, EACH)

    def test_memory_is_bounded(self) -> None:
        """Users who have not dialled for long are forgotten."""
        quotas = Quotas()
        for user in range(1, 5000):
            quotas.wait(user, user * 1.0)
            self.assertLessEqual(len(quotas), 1024)
