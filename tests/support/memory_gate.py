"""A gate of which only the memory is there: the twin of the real ones, without privilege and without packets."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from torknock.interfaces import IGate
from torknock.protocol.wanted import Wanted


@implementer(IGate)
class MemoryGate:
    """Lets in what is wanted, by the time of *clock*, and fails with what `refuses` says."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}
        self._used: set[int] = set()
        self.standing = False
        self.judging = False
        self.refuses: Exception | None = None

    @property
    def opens(self) -> set[int]:
        """What opens a connection now."""
        return {token for token, until in self._until.items() if until > self._clock.seconds()} - self._used

    def use(self, token: int) -> bool:
        """Whether a SYN with *token* opens a connection, which it does once."""
        found = token in self.opens
        self._used |= {token} if found else set()
        return found

    def lose(self) -> None:
        """Forget what was applied, as when another program removes it."""
        self._until.clear()
        self.standing = False

    def apply(self, wanted: Wanted) -> Deferred[None]:
        """See `IGate.apply`."""
        if self.refuses is not None:
            return fail(self.refuses)
        now = self._clock.seconds()
        self._until = {token: now + page.seconds for page in wanted.pages for token in page.tokens}
        self.standing, self.judging = True, wanted.judging
        return succeed(None)

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`: it counts nothing."""
        return succeed(None)

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""
        return succeed(len(self.opens) if self.standing else None)

    def close(self) -> Deferred[None]:
        """See `IGate.close`."""
        self.lose()
        return succeed(None)


class Kept(Protocol):
    """The memory of a gate."""

    def use(self, token: int) -> bool:
        """Whether a SYN with *token* opens a connection, which it does once."""

    def lose(self) -> None:
        """Forget what was applied, as when another program removes it."""


class TwinGuarded:
    """A *gate* of which only the memory is there, that of *kept*; see `Guarded`."""

    def __init__(self, case: SynchronousTestCase, clock: Clock, gate: IGate, kept: Kept) -> None:
        self._case, self._clock = case, clock
        self._gate: Any = gate
        self.opens = kept.use
        self.disturb = kept.lose
        self.pass_time = clock.advance

    def apply(self, wanted: Wanted) -> None:
        applying = self._gate.apply(wanted)
        for _ in range(10):  # it lets others run
            self._clock.advance(0)
        self._case.successResultOf(applying)

    def refused(self) -> int | None:
        counted: int | None = self._case.successResultOf(self._gate.refused())
        return counted

    def held(self) -> int | None:
        counted: int | None = self._case.successResultOf(self._gate.held())
        return counted

    def close(self) -> None:
        self._case.successResultOf(self._gate.close())
