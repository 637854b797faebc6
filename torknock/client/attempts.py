"""Which token to try next, and how long to wait for an answer (protocol.md §2.4). Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from torknock.protocol.token import EPOCH

PAUSES = ((0.0, 0.0), (0.3, 1.0), (15.0, 30.0))
"""The shortest and the longest pause in seconds before each SYN of a round: a used token is passed over soon, a bridge
that restarts is found again by the last."""

TIMEOUTS = (10.5, 1.9, 1.9)
"""Seconds that an answer to each is waited for: the kernel sends them 7, 2 and 2 times (`torknock.client.budget`)."""

TIMEOUT_ALONE = 120.0
"""The same in a round of one SYN, which the kernel sends up to 11 times."""

SEARCHED = 3
"""Epochs that a clock search goes back and forth. A bridge takes tokens of one epoch more."""


_LAST = 2.0
"""Seconds at the end of an epoch in which no SYN leaves: it might arrive when its token is over."""


class Chance(Protocol):
    """What is asked of `secrets.SystemRandom`."""

    def uniform(self, a: float, b: float) -> float:
        """A number between *a* and *b*."""


def nearer_side(unix_time: float) -> int:
    """The neighbour whose tokens are valid too if clocks are less than half an epoch apart: -1 or 1."""
    return -1 if unix_time % EPOCH < EPOCH / 2 else 1


def to_the_next_epoch(unix_time: float) -> float:
    """How many seconds a SYN is to be held back because an epoch is about to end; 0 if it may leave."""
    left = EPOCH - unix_time % EPOCH
    return left if left <= _LAST else 0.0


def offsets(failed_rounds: int, offset: int, side: int) -> tuple[int, ...]:
    """The epochs whose tokens a round tries, in order, as offsets from this clock's epoch.

    *failed_rounds* have gone before; *offset* is where tokens were accepted last, *side* is `nearer_side`. The first
    round finds a bridge up to 2 epochs away, whichever token was used before; the second up to 4. Later ones do not
    search.
    """
    if failed_rounds > 1:
        return (offset,)
    if failed_rounds == 1:
        return (offset - side if offset else 0, SEARCHED * side, -SEARCHED * side)
    if offset:
        return (offset, 0, offset + side or offset - side)
    return (0, side, -side)


def proving(neighbour: int) -> tuple[int, ...]:
    """The same for a round that finds out why a *neighbour*'s tokens, -1 or 1, are taken and this epoch's are not.

    The first is taken if, and only if, the bridge is more than one epoch away. Then clocks are more than 5 minutes
    apart, whatever was used or refused before.
    """
    return (3 * neighbour, 0, neighbour)


def unused(
    tokens: Callable[[int], Sequence[int]], epochs: Iterable[int], used: Collection[int], start: int
) -> tuple[int, int] | None:
    """The first epoch of *epochs*, and its first ISN, that is not *used*; None if all are.

    *tokens* derives an epoch's ISNs. They are taken from number *start* on, and round to the one before it: each device
    with the same line begins elsewhere.
    """
    for epoch in epochs:
        found = tokens(epoch)
        first = start % len(found) if found else 0
        for isn in (*found[first:], *found[:first]):
            if isn not in used:
                return epoch, isn
    return None
