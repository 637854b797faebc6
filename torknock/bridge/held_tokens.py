"""How many tokens the kernel holds, beside how many should open the port."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from torknock.bridge.question import Question
from torknock.errors import TorknockError

_FRESH = 5.0
"""Seconds after a question without a further one: the kernel takes half a second to list 100,000 tokens."""

_MISSING = 0.9
"""Below this share of the tokens the operator is warned; a few may be spent between the two counts."""


class HeldTokens:
    """What the gate says that the kernel holds.

    *held* is `IGate.held`; *tokens* returns how many tokens it should hold now.
    """

    def __init__(
        self, clock: IReactorTime, held: Callable[[], Deferred[int | None]], tokens: Callable[[], int]
    ) -> None:
        self._held, self._tokens = held, tokens
        self._question = Question(clock, self._ask, _FRESH)
        self._expected = 0
        """How many there should have been when the kernel was asked, or after: whichever is fewer."""
        self.count: int | None = None
        """None if it is not known."""

    @property
    def missing(self) -> int:
        """How many the kernel lacks; 0 if they are few, or if it is not known."""
        if self.count is None or self.count >= _MISSING * self._expected:
            return 0
        return self._expected - self.count

    def fresh(self) -> Deferred[None]:
        """Fires when the count is at most 5 seconds old, or after a timeout."""
        return self._question.answered()

    async def _ask(self) -> None:
        before = self._tokens()
        try:
            self.count = await self._held()
        except TorknockError:  # the keeper says why the gate cannot be asked
            self.count = None
        self._expected = min(before, self._tokens())
