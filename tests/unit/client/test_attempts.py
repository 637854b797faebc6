"""Tests of torknock.client.attempts: which tokens a round tries, in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.client.attempts import TIMEOUT_ALONE, TIMEOUTS, nearer_side, offsets, unused
from torknock.client.budget import SENT_AT, SYNS
from torknock.protocol.token import EPOCH

E = 5_666_667
SIDES = st.sampled_from([-1, 1])


def takes(place: int, offset: int) -> bool:
    """Whether a bridge *place* epochs from here takes a token of the epoch at *offset* (protocol.md §2.3)."""
    return abs(place - offset) <= 1


def isns(epoch: int) -> list[int]:
    """Tokens that are easily told apart: those of *epoch* are 1,000 * (epoch - E) + 100,000 and following."""
    return [100_000 + 1000 * (epoch - E) + number for number in range(8)]


class OffsetsTests(SynchronousTestCase):
    """`offsets`."""

    @given(SIDES)
    def test_two_rounds_find_a_bridge_within_20_minutes(self, side: int) -> None:
        """The first round finds one 2 epochs away, the second one 4 away, on either side."""
        for place in range(-4, 5):
            found = [round_ for round_ in (0, 1) if any(takes(place, offset) for offset in offsets(round_, 0, side))]
            self.assertEqual(found[0], 0 if abs(place) <= 2 else 1)

    @given(SIDES)
    def test_a_used_token_is_survived_at_once(self, side: int) -> None:
        """The second SYN's token is taken by a bridge whose clock agrees."""
        self.assertTrue(all(takes(0, offset) for offset in offsets(0, 0, side)[:2]))

    @given(SIDES, st.integers(-4, 4))
    def test_a_known_offset_is_tried_first_and_then_none(self, side: int, offset: int) -> None:
        """Refused with an offset, a client tries its own clock's epoch; what it tries in a round differs."""
        first = offsets(0, offset, side)
        self.assertEqual(first[0], offset)
        self.assertIn(0, first[:2])
        self.assertEqual(len(set(first)), len(TIMEOUTS))
        self.assertEqual(len(offsets(1, offset, side)), len(TIMEOUTS))
        self.assertEqual([offsets(failed, offset, side) for failed in (2, 3, 9)], [(offset,)] * 3)

    @given(st.floats(0, 1e10), st.floats(-EPOCH / 2 + 0.01, EPOCH / 2 - 0.01))
    def test_the_nearer_side_is_valid(self, unix_time: float, skew: float) -> None:
        """Where clocks are less than half an epoch apart."""
        place = int((unix_time + skew) // EPOCH) - int(unix_time // EPOCH)
        self.assertTrue(takes(place, nearer_side(unix_time)))

    def test_a_round_is_within_the_budget(self) -> None:
        """What the kernel repeats is counted."""
        for timeout in (TIMEOUTS, (TIMEOUT_ALONE,)):
            self.assertEqual(sum(after < each for each in timeout for after in SENT_AT), SYNS)


class UnusedTests(SynchronousTestCase):
    """`unused`."""

    @given(st.integers(0, 2**64))
    def test_each_token_once_from_the_start_on(self, start: int) -> None:
        """A line of 8 opens 24 times within an epoch, then nothing is left."""
        used: list[int] = []
        while token := unused(isns, (E, E + 1, E - 1), used, start):
            used.append(token[1])
        for epoch, taken in ((E, used[:8]), (E + 1, used[8:16]), (E - 1, used[16:])):
            first = start % 8
            self.assertEqual(taken, [*isns(epoch)[first:], *isns(epoch)[:first]])

    def test_two_devices_share_no_token_until_they_meet(self) -> None:
        """Four each, if they begin half-way round from each other."""
        used: set[int] = set()
        for start in (1, 5, 1, 5, 1, 5, 1, 5):
            own = {isn for isn in used if (isn - 100_000 - start) % 8 < 4}
            token = unused(isns, (E,), own, start)
            assert token is not None
            self.assertNotIn(token[1], used)
            used.add(token[1])

    @given(st.dictionaries(st.integers(E - 1, E + 1), st.lists(st.integers(1, 20), max_size=8)), st.integers(0, 9))
    def test_whatever_the_derivation_yields(self, table: dict[int, list[int]], start: int) -> None:
        """Words that come twice, epochs without any: none is taken twice."""
        used: set[int] = set()
        while token := unused(lambda epoch: table.get(epoch, []), (E, E + 1, E - 1), used, start):
            self.assertIn(token[1], table[token[0]])
            self.assertNotIn(token[1], used)
            used.add(token[1])
        self.assertEqual(used, {isn for found in table.values() for isn in found})
