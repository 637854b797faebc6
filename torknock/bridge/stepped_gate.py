"""A gate that is changed step by step: from what it was told to what is wanted, as WireGuard's `syncconf` does it.

Its law: after `apply` it admits what is wanted and has not run out, and nothing else. A gate of which that is not
known, because a step failed or another program changed it, is opened again, empty, before it is told anything. A token
that is spent makes no difference: it left the gate when it was used.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from torknock.interfaces import IGate
from torknock.protocol.wanted import Page, Wanted

_log = Logger()

_OFF = 5.0
"""Seconds by which tokens may run out too early or too late: the clock was slewed. Beyond it the clock was set."""

_RUNS_OUT = 1.0
"""Tokens that have this many seconds left, and are no longer wanted, are not withdrawn one by one: they run out."""

_A_WHILE, _WARNINGS_A_WHILE = 600.0, 5
"""So many repairs are logged within so many seconds."""


class Steps(Protocol):
    """The steps by which a gate is changed, made one after the other; each may fail with `GateFailed`."""

    def open(self, judging: bool) -> Deferred[None]:
        """Stand at the door with no token admitted, whatever stood there before.

        With *judging* a SYN without a token is asked about.
        """

    def admit(self, tokens: Collection[int], seconds: int) -> Deferred[None]:
        """Let each of *tokens* open one connection within *seconds*."""

    def withdraw(self, tokens: Collection[int]) -> Deferred[None]:
        """Let none of *tokens* open a connection any more, whether it did before or not."""

    def intact(self) -> Deferred[bool]:
        """Whether the gate still is what the steps have made; false if another program changed or removed it."""

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""

    def close(self) -> Deferred[None]:
        """See `IGate.close`."""


@define
class _Told:
    """What a gate was told of one epoch."""

    until: float
    """When it runs out there, by the steady clock."""
    edition: int = 0
    """The edition of the page that was told last; 0 before the first."""
    tokens: set[int] = field(factory=set)


@implementer(IGate)
class SteppedGate:
    """A gate changed by *steps*; *clock* is the one by which its tokens run out."""

    def __init__(self, clock: IReactorTime, steps: Steps) -> None:
        self._clock, self._steps = clock, steps
        self._told: dict[int, _Told] | None = None
        """By epoch; None if the gate is to be opened."""
        self._judging = False
        self._warned: list[float] = []
        """When it was said that the gate was repaired, of late."""

    def apply(self, wanted: Wanted) -> Deferred[None]:
        """See `IGate.apply`."""
        return Deferred.fromCoroutine(self._apply(wanted))

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""
        return self._steps.refused()

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""
        return self._steps.held()

    def close(self) -> Deferred[None]:
        """See `IGate.close`."""
        self._told = None
        return self._steps.close()

    async def _apply(self, wanted: Wanted) -> None:
        now = self._clock.seconds()
        until = {page.epoch: now + page.seconds for page in wanted.pages}
        told, self._told = self._told, None  # until all is done
        if told is not None and not await self._steps.intact():
            self._warn()
            told = None
        if told is None or self._judging != wanted.judging or _is_off(told, until):
            await self._steps.open(wanted.judging)
            told, self._judging = {}, wanted.judging
        await self._withdraw(told, wanted, now)
        for page in wanted.pages:
            await self._admit(told.setdefault(page.epoch, _Told(until[page.epoch])), page)
        self._told = told

    def _warn(self) -> None:
        now = self._clock.seconds()
        self._warned = [at for at in self._warned if at > now - _A_WHILE]
        if len(self._warned) < _WARNINGS_A_WHILE:
            self._warned.append(now)
            more = "; further warnings of this kind are suppressed for 10 minutes"
            _log.warn(
                "gate table missing or changed (another program edited nftables, or the gate service ended); reloading "
                "it{more}",
                more=more if len(self._warned) == _WARNINGS_A_WHILE else "",
            )

    async def _withdraw(self, told: dict[int, _Told], wanted: Wanted, now: float) -> None:
        pages = {page.epoch: page for page in wanted.pages}
        gone: set[int] = set()
        for epoch, known in list(told.items()):
            page = pages.get(epoch)
            if page is None:
                del told[epoch]
                if known.until > now + _RUNS_OUT:
                    gone |= known.tokens
            elif page.edition != known.edition:
                left = known.tokens.difference(page.tokens)
                known.tokens -= left
                gone |= left
                await deferLater(self._clock, 0)
        gone = {token for token in gone if not any(token in page.tokens for page in wanted.pages)}
        if gone:
            await self._steps.withdraw(gone)

    async def _admit(self, known: _Told, page: Page) -> None:
        if known.edition == page.edition:
            return
        known.edition, come = page.edition, set(page.tokens)  # one copy at a time: each of many holds the reactor up
        if known.tokens:
            come -= known.tokens
        await deferLater(self._clock, 0)
        left = math.ceil(known.until - self._clock.seconds())  # whole seconds, and the last one is whole, too
        if come and left > 0:
            known.tokens = known.tokens | come if known.tokens else come
            await self._steps.admit(come, left)


def _is_off(told: Mapping[int, _Told], until: Mapping[int, float]) -> bool:
    """Whether what was told runs out at other times than *until*, or is all of other epochs: the clock was set."""
    stay = told.keys() & until.keys()
    return (bool(told) and not stay) or any(abs(until[epoch] - told[epoch].until) > _OFF for epoch in stay)
