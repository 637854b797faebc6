"""Tests of torknock.dial.attempts: which SYNs a round sends, in which order."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.dial.attempts import FRESH, PATIENCE, PAUSE, SEARCH_PATIENCE, SEARCHED, Attempt, attempts

E = 5_666_667

small = st.integers(1, 60)
"""ISNs of so small a range that tokens of one epoch, and of several, are often the same."""
tables = st.dictionaries(st.integers(E - 8, E + 8), st.lists(small, max_size=8))
chances = st.integers(0, 2**32).map(Random)


def seeded(seed: int) -> Random:
    """Chance that is the same in every run."""
    return Random(seed)  # noqa: S311  nothing secret here


def isns(epoch: int, n: int = 8) -> list[int]:
    """Tokens that are easily told apart: those of *epoch* are 1,000 * (epoch - E) + 100,000 and following."""
    return [100_000 + 1000 * (epoch - E) + number for number in range(n)]


def opens(attempt: Attempt, bridge_epoch: int) -> bool:
    """Whether a bridge takes the attempt's token in *bridge_epoch* (protocol.md §2.3)."""
    return abs(attempt.epoch - bridge_epoch) <= 1


class AttemptsTests(SynchronousTestCase):
    """`attempts`."""

    @given(tables, st.sets(small), chances, st.integers(1, FRESH), st.booleans())
    def test_a_token_is_tried_once(
        self, table: dict[int, list[int]], used: set[int], chance: Random, fresh: int, search: bool
    ) -> None:
        """None that was used, none twice, each of its own epoch, however the derivation repeats itself."""
        tried = list(attempts(lambda epoch: table.get(epoch, []), E, used, chance, fresh, search))
        self.assertEqual(len({attempt.isn for attempt in tried}), len(tried))
        self.assertEqual(used & {attempt.isn for attempt in tried}, set())
        for attempt in tried:
            self.assertIn(attempt.isn, table[attempt.epoch])

    @given(tables, st.sets(small), chances, st.integers(1, FRESH), st.booleans())
    def test_no_more_syns_than_allowed(
        self, table: dict[int, list[int]], used: set[int], chance: Random, fresh: int, search: bool
    ) -> None:
        """At most 3 at first, and 8 in a search if there is one; without a fresh token, no search."""
        tried = list(attempts(lambda epoch: table.get(epoch, []), E, used, chance, fresh, search))
        searched = [attempt for attempt in tried if attempt.search]
        self.assertLessEqual(len(tried) - len(searched), fresh)
        self.assertLessEqual(len(searched), 2 * SEARCHED if search else 0)
        self.assertTrue(len(tried) > len(searched) or not tried)

    @given(tables, st.sets(small), chances)
    def test_order(self, table: dict[int, list[int]], used: set[int], chance: Random) -> None:
        """The present epoch first, then its neighbours, then a search, nearest first and once an epoch."""
        tried = list(attempts(lambda epoch: table.get(epoch, []), E, used, chance))
        round_, search = ([one for one in tried if one.search is which] for which in (False, True))
        self.assertEqual(tried, round_ + search)
        distances = [abs(attempt.epoch - E) for attempt in round_]
        self.assertEqual(distances, sorted(distances))
        self.assertLessEqual(max(distances, default=0), 1)
        self.assertLessEqual(len(list(groupby(attempt.epoch for attempt in round_))), 3)
        distances = [abs(attempt.epoch - E) for attempt in search]
        self.assertEqual(distances, sorted(distances))
        self.assertTrue(all(1 <= distance <= SEARCHED for distance in distances))
        asked = [attempt.epoch for attempt in search]
        self.assertEqual(len(set(asked)), len(asked))
        self.assertEqual(set(asked) & {attempt.epoch for attempt in round_}, set())

    @given(tables, chances)
    def test_this_epoch_is_used_up_before_its_neighbours(self, table: dict[int, list[int]], chance: Random) -> None:
        """A neighbour's token is tried once all of this epoch's were, in this round or before."""
        tried = [one for one in attempts(lambda epoch: table.get(epoch, []), E, (), chance) if not one.search]
        if any(attempt.epoch != E for attempt in tried):
            self.assertEqual(set(table.get(E, [])), {attempt.isn for attempt in tried if attempt.epoch == E})

    @given(chances)
    def test_pauses(self, chance: Random) -> None:
        """The first SYN leaves at once, each other after a pause; a round in silence takes half a minute."""
        tried = list(attempts(isns, E, (), chance))
        self.assertEqual(tried[0].pause, 0)
        for attempt in tried[1:]:
            self.assertTrue(PAUSE[0] <= attempt.pause <= PAUSE[1])
        self.assertEqual({one.patience for one in tried if not one.search}, {PATIENCE})
        self.assertEqual({one.patience for one in tried if one.search}, {SEARCH_PATIENCE})
        self.assertLessEqual(sum(attempt.patience + attempt.pause for attempt in tried), 33)

    def test_tokens_are_taken_in_random_order(self) -> None:
        """Each of an epoch's tokens comes first for some chance, and either neighbour does."""
        first = {next(attempts(isns, E, (), seeded(seed))).isn for seed in range(200)}
        self.assertEqual(first, set(isns(E)))
        neighbours = {next(attempts(isns, E, isns(E), seeded(seed))).epoch for seed in range(50)}
        self.assertEqual(neighbours, {E - 1, E + 1})

    def test_24_connections_within_an_epoch(self) -> None:
        """A line of 8 opens 24 times, then nothing is left to send."""
        used: set[int] = set()
        for _ in range(24):
            used.add(next(attempts(isns, E, used, seeded(1))).isn)
        self.assertEqual(list(attempts(isns, E, used, seeded(1))), [])

    def test_a_neighbour_answers_after_this_epoch_was_refused(self) -> None:
        """It tells the offset without a search; with this epoch used up it tells nothing, and the clock is right."""
        refused, answered = list(attempts(isns, E, isns(E)[1:], seeded(1)))[:2]
        self.assertEqual((refused.epoch, refused.offset), (E, 0))
        self.assertEqual(answered.offset, 2 * (answered.epoch - E))
        self.assertEqual(next(attempts(isns, E, isns(E), seeded(1))).offset, 0)

    @given(chances, st.integers(-SEARCHED - 1, SEARCHED + 1), st.integers(1, FRESH))
    def test_a_bridge_within_25_minutes_is_found_where_it_is(self, chance: Random, away: int, fresh: int) -> None:
        """The offset that the answered attempt tells is the bridge's own, to the epoch, if the clocks are apart."""
        answered = next(one for one in attempts(isns, E, (), chance, fresh) if opens(one, E + away))
        self.assertEqual(answered.offset, away if abs(away) > 1 else 0)

    @given(chances, st.integers(-SEARCHED - 1, SEARCHED + 1), st.sets(st.sampled_from([*isns(E - 1), *isns(E)])))
    def test_offset_opens_whatever_was_used(self, chance: Random, away: int, used: Collection[int]) -> None:
        """Where some tokens are spent the offset may be one off, and then its own epoch opens as well."""
        for answered in attempts(isns, E, used, chance):
            if opens(answered, E + away):
                if answered.search or answered.epoch == E:
                    self.assertLessEqual(abs(answered.offset - away), 1)
                return
        self.fail("not found")

    def test_search_does_not_ask_an_epoch_again(self) -> None:
        """A neighbour whose token was refused in the round is left out of the search."""
        used = [*isns(E)[:-1], *isns(E - 1)]
        tried = list(attempts(isns, E, used, seeded(1)))
        self.assertEqual([one.epoch - E for one in tried[:3]], [0, 1, 1])
        self.assertEqual(sorted(one.epoch - E for one in tried[3:]), [-4, -3, -2, 2, 3, 4])
