"""Which ISN to try next, after what pause (protocol.md §2.4). Pure: chance and the epoch are arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from torknock.isn.token import NEIGHBOURS

FRESH = 3
"""SYNs at most that take the clock for right."""

SEARCHED = 4
"""Epochs that a clock search goes back and forth: 8 SYNs."""

PATIENCE = 5.0
"""Seconds that a SYN-ACK is waited for."""

SEARCH_PATIENCE = 0.9
"""The same in a clock search. A kernel sends a SYN again after 1 s: so 8 are 8, and a silent round takes 30 s."""

PAUSE = (0.3, 1.0)
"""The shortest and the longest pause before another SYN."""


class Chance(Protocol):
    """What is asked of `secrets.SystemRandom`."""

    def sample(self, population: list[int], k: int) -> list[int]:
        """*k* of *population*, in random order."""

    def uniform(self, a: float, b: float) -> float:
        """A number between *a* and *b*."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A SYN to send: its token, and how long to wait before it and after it."""

    epoch: int
    isn: int
    pause: float
    patience: float
    offset: int
    """If this one is answered: the bridge's epoch less the one it was thought to be in."""
    search: bool
    """It belongs to a clock search."""


def attempts(
    tokens: Callable[[int], Collection[int]],
    epoch: int,
    used: Collection[int],
    chance: Chance,
    fresh: int = FRESH,
    search: bool = True,
) -> Iterator[Attempt]:
    """The SYNs of one round, for a bridge thought to be in *epoch*: each to be sent if all before were in vain.

    *tokens* derives an epoch's ISNs; *used* are those that were tried before: none comes twice. First at most *fresh*
    of this epoch, in random order, then of its neighbours; then, if a *search* may be made, one of each epoch nearby
    that was not asked yet, the nearest first. None at all if nothing fresh is left.
    """
    tried = set(used)
    asked: set[int] = set()

    def unused(away: int) -> list[int]:
        left = [isn for isn in dict.fromkeys(tokens(epoch + away)) if isn not in tried]
        return chance.sample(left, len(left))

    def attempt(away: int, isn: int, search: bool) -> Attempt:
        pause = chance.uniform(*PAUSE) if asked else 0.0
        offset = _offset(away, asked - {away})
        asked.add(away)
        tried.add(isn)
        return Attempt(epoch + away, isn, pause, SEARCH_PATIENCE if search else PATIENCE, offset, search)

    for away in (0, *chance.sample([-NEIGHBOURS, NEIGHBOURS], 2)):
        for isn in unused(away)[:fresh]:
            fresh -= 1
            yield attempt(away, isn, search=False)
    if not search or not asked:
        return
    for distance in range(1, SEARCHED + 1):
        for away in chance.sample([-distance, distance], 2):
            if away not in asked:
                for isn in unused(away)[:1]:
                    yield attempt(away, isn, search=True)


def _offset(answered: int, refused: Collection[int]) -> int:
    """Where the bridge is, in epochs from where it was thought to be.

    It takes the tokens of three epochs: an *answered* one leaves three places, of which each one *refused* excludes
    those nearby. In a search that leaves the farthest of them: the bridge is one epoch beyond the first that answers.
    In the middle of what is left, a guess that is one off still opens.
    """
    places = [
        place
        for place in range(answered - NEIGHBOURS, answered + NEIGHBOURS + 1)
        if all(abs(place - away) > NEIGHBOURS for away in refused)
    ]
    return 0 if 0 in places else places[len(places) // 2]
