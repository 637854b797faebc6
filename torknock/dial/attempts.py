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

SEARCH_PATIENCE = 1.0
"""The same in a clock search, which somebody waits for who asked for a connection."""

PAUSE = (0.3, 1.0)
"""The shortest and the longest pause before another SYN."""


class Chance(Protocol):
    """What is asked of `random.Random`."""

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
    searched: int | None = None
    """In a clock search, how many epochs this one is away from where the bridge was thought to be."""

    @property
    def offset(self) -> int:
        """The bridge's epoch less the one it was thought to be in, now that this attempt was answered.

        A bridge takes three epochs' tokens. The nearer epochs of this direction were refused before, so it is the
        first of the three that was answered, and the bridge is one epoch further on.
        """
        if not self.searched:
            return 0
        return self.searched + (1 if self.searched > 0 else -1)


def attempts(
    tokens: Callable[[int], Collection[int]],
    epoch: int,
    used: Collection[tuple[int, int]],
    search: bool,
    chance: Chance,
) -> Iterator[Attempt]:
    """The SYNs of one round, for a bridge thought to be in *epoch*: each to be sent if all before were in vain.

    *tokens* derives an epoch's; *used* are those, (epoch, ISN), that were tried before. First at most `FRESH` of this
    epoch, in random order, then of its neighbours; then, if a *search* may be made, one of each epoch nearby.
    """

    def unused(some_epoch: int) -> list[int]:
        left = [isn for isn in tokens(some_epoch) if (some_epoch, isn) not in tried]
        return chance.sample(left, len(left))

    def pause() -> float:
        return chance.uniform(*PAUSE) if len(tried) > len(used) else 0.0

    tried = set(used)
    sent = 0
    for near in (epoch, *chance.sample([epoch - NEIGHBOURS, epoch + NEIGHBOURS], 2)):
        for isn in unused(near)[: FRESH - sent]:
            yield Attempt(near, isn, pause(), PATIENCE)
            tried.add((near, isn))
            sent += 1
    for distance in range(1, SEARCHED + 1) if search else ():
        for searched in chance.sample([-distance, distance], 2):
            for isn in unused(epoch + searched)[:1]:
                yield Attempt(epoch + searched, isn, pause(), SEARCH_PATIENCE, searched)
                tried.add((epoch + searched, isn))
