"""Which tokens a table was given, and until when: what the kernel's set is compared with. Pure: times are arguments.

Tokens stay in the batches in which they came. One collection of all, made again at each epoch's end, would hold the
reactor up.
"""

from __future__ import annotations

from collections.abc import Collection

_SLACK = 2.0
"""Seconds within which a token may have run out in the kernel, or not, by this process's clock."""


class AdmittedTokens:
    """None at first."""

    def __init__(self) -> None:
        self._batches: list[tuple[float, set[int]]] = []
        """When each runs out, and its tokens."""

    def clear(self) -> None:
        """The table is empty."""
        self._batches.clear()

    def add(self, tokens: set[int], until: float, now: float) -> None:
        """The table has *tokens*, the caller's no more; those that are new there run out at *until*."""
        self._batches = [batch for batch in self._batches if batch[0] > now - _SLACK]
        for _, earlier in self._batches:
            tokens -= earlier
        self._batches.append((until, tokens))

    def remove(self, tokens: Collection[int]) -> None:
        """The table has none of *tokens* any more."""
        for _, batch in self._batches:
            batch.difference_update(tokens)

    def match(self, held: set[int], claimed: set[int], now: float) -> bool:
        """Whether the kernel, which has *held* and *claimed*, holds what was added and was not used; nothing else."""
        return held <= self._lasting(now - _SLACK) and self._lasting(now + _SLACK) <= held | claimed

    def _lasting(self, at: float) -> set[int]:
        """What runs out after *at*."""
        return set().union(*(batch for until, batch in self._batches if until > at))
