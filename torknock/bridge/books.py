"""The two ledgers of a door as its keeper uses them: each record is written before its connection counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from twisted.internet.defer import Deferred, execute

from torknock.bridge.ledger import GroupSync, SpentKnocks, SpentTokens, SpentUnusable

_KNOCKS_RESERVED = 1_024
"""Knocks that the disk has room for before a line of scheme `knock` is judged by."""


class Books:
    """*tokens* and *knocks*; *in_thread* runs what waits for the disk.

    A disk that refuses while a connection waits is kept in mind until `check` raises it.
    """

    def __init__(
        self, tokens: SpentTokens, knocks: SpentKnocks, in_thread: Callable[..., Deferred[None]] = execute
    ) -> None:
        self.tokens, self.knocks = tokens, knocks
        self._syncs = GroupSync(tokens, in_thread)
        self._refused: SpentUnusable | None = None

    def check(self) -> None:
        """Raise the `SpentUnusable` of the last connection whose record could not be written, once."""
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise refused

    def refuse(self, error: SpentUnusable) -> None:
        """Have `check` raise *error*."""
        self._refused = error

    def spend(self, epochs: Iterable[int], isn: int) -> bool:
        """Write *isn* down as spent in *epochs*; false if the disk refuses."""
        try:
            for epoch in epochs:
                self.tokens.add(epoch, isn)
        except SpentUnusable as error:
            self._refused = error
            return False
        return True

    async def synced(self) -> bool:
        """Whether what was spent so far is on the disk; false if the disk refuses."""
        try:
            await self._syncs.synced()
        except SpentUnusable as error:
            self._refused = error
            return False
        return True

    def knocked(self, tags: Collection[int], judging: bool) -> set[tuple[int, int, int]]:
        """The knocks with *tags* that were admitted; with *judging* there is room for more. Raises `SpentUnusable`."""
        found = self.knocks.read(tags)
        self.knocks.reserve(_KNOCKS_RESERVED if judging else 0)
        return found

    def close(self) -> None:
        """Close both files. May be called again."""
        self.tokens.close()
        self.knocks.close()
