"""Rounds of SYNs for one bridge, for both schemes: one at a time, with pauses and a backoff (protocol.md §2.4).

The law: requests for one bridge wait for a lock, in the order in which they came, and one of them at a time runs a
round. A round begins (`BridgeSilent` while the backoff lasts), sends its SYNs one after the other, each after its
pause and within the budget, and ends in one of these ways:

- `opened` returned: the bridge admitted this client. Budget, backoff and count of failed rounds are cleared.
- Every SYN was unanswered, refused, or answered by something else: the backoff begins, and `BridgeSilent` is raised.
- A network on the way said that there is no way, or the request was cancelled: the backoff begins, the error is raised.
- This host cannot send a SYN, or all tokens are used: the error is raised, and no backoff begins.

No SYN leaves outside a round, and no two rounds overlap. Every SYN that leaves has, before the request's deadline, the
time in which its answer is waited for, and then the time that a channel may take to open.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IReactorTime

from torknock.channel.tls_client import HANDSHAKE_WITHIN
from torknock.client.attempts import PAUSES, TIMEOUT_ALONE, Chance
from torknock.client.round_errors import HungUp, RoundErrors, WrongPeer
from torknock.client.syns import SYNs, no_time_left
from torknock.interfaces import Slipped

T = TypeVar("T")

REST = (40.0, 52.0)
"""Seconds from the beginning of a failed round to the next, at least and at most, if the budget does not want more."""

SEARCH_AGAIN_AFTER = 600.0
"""Seconds between two clock searches for one bridge that does not admit this client."""

REQUEST_WITHIN = TIMEOUT_ALONE + HANDSHAKE_WITHIN
"""Seconds that a request needs at most: for the longest wait for an answer, and the channel behind it.

A round of several SYNs takes less: up to 46 s in silence, and the channel. `connect` itself gives up after 127 s, which
is what tor sees of transports that set no limit.
"""

_FAILURES = (TimeoutError, TCPTimedOutError, ConnectionRefusedError, Slipped)
"""What a dial fails with if the SYN was not answered, or refused, or left too late."""


@dataclass(frozen=True, slots=True)
class Knocked:
    """A connection that a knock has opened: its socket, the caller's to close, and its ISN."""

    socket: socket.socket
    isn: int
    epoch: int | None = None
    """The epoch of which `isn` is a token; None with scheme `knock`."""

    hung_up: Callable[[], None] = lambda: None
    """To be called if the bridge, which it was, ended the connection without having sent an octet."""


Opener = Callable[[Knocked], Awaitable[T]]
"""Finds out whether a connection leads to the bridge, and returns what is made of it. Raises `WrongPeer`."""


class Plan(Protocol):
    """Which SYNs one round sends. Calls are made in the order in which they stand here."""

    reasons: str
    """What may be the reason if the bridge accepts none of them, for people."""

    async def begin(self) -> int:
        """How many SYNs the round sends at most."""

    def timeout(self, number: int) -> float:
        """For how many seconds the answer to SYN *number*, from 0, is waited for."""

    async def dial(self, number: int) -> Knocked | None:
        """Dial SYN *number* by `SYNs.dial`. None if there is nothing to send for it."""

    def ends(self, number: int) -> bool:
        """Whether the failure of SYN *number* ends the round if no other SYN may leave now; else it is waited for."""

    def accepted(self, number: int) -> None:
        """The bridge admitted this client by SYN *number*."""


class Rounds:
    """What is remembered of one bridge for the life of the process. *clock* times the waits."""

    def __init__(self, clock: IReactorTime, chance: Chance) -> None:
        self.failed = 0
        """Rounds that failed since the last that did not, or since the last clock search began."""
        self.syns = SYNs(clock)
        """By which a `Plan` dials."""
        self._clock, self._chance = clock, chance
        self._lock = DeferredLock()
        self._errors = RoundErrors()
        """Of the last round; none after one that opened a connection."""
        self._retry_at = float("-inf")
        self._began = 0.0
        self._searched = 0.0

    def run(self, plan: Plan, opened: Opener[T], deadline: float = inf) -> Deferred[T]:
        """What *opened* makes of a connection that a SYN of *plan* has opened.

        No SYN leaves whose answer, and the channel behind it, might come after *deadline* (of the reactor's clock).
        Fails with `BridgeSilent`, and then for a while without sending anything; with `CannotKnock` if this host
        cannot; with a `ConnectError` if a network on the way says that there is no way to the bridge.
        """
        return self._lock.run(self._round, plan, opened, deadline)

    async def _round(self, plan: Plan, opened: Opener[T], deadline: float) -> T:
        self._begin(deadline)
        try:
            for number in range(await plan.begin()):
                if not await self.syns.pause(self._chance.uniform(*PAUSES[number]), plan.timeout(number)):
                    break
                try:
                    knocked = await plan.dial(number)
                    if knocked is None:
                        continue
                    made = await opened(knocked)
                except (*_FAILURES, WrongPeer) as error:
                    self._errors.note(error)
                    if self.syns.exhausted() and plan.ends(number):
                        break
                else:
                    self._succeed()
                    plan.accepted(number)
                    return made
        except (ConnectError, CancelledError) as error:
            self._errors.note(error)
            self._fail()
            raise
        self._fail()
        if not self.syns.attempts:
            raise no_time_left()
        raise self._errors.failure(self.syns.attempts, plan.reasons, self._again_in())

    def hung_up(self) -> None:
        """The bridge admitted this client and hung up: back off as from one that is silent, and doubt no clock."""
        self._errors = RoundErrors()
        self._errors.note(HungUp())
        self._retry_at = self._clock.seconds() + self._chance.uniform(*REST)

    def _begin(self, deadline: float) -> None:
        """Begin a round. Raises `BridgeSilent` if it is too early for that."""
        again_in = self._again_in()
        if again_in > 0:
            raise self._errors.backing_off(again_in)
        self.syns.begin(deadline)
        self._began, self._errors = self._clock.seconds(), RoundErrors()
        if self.failed > 1 and self._began - self._searched >= SEARCH_AGAIN_AFTER:
            self.failed = 0
        if not self.failed:
            self._searched = self._began

    def _succeed(self) -> None:
        """The bridge admitted this client."""
        self.syns.admitted()
        self.failed = 0
        self._retry_at = float("-inf")
        self._errors = RoundErrors()

    def _fail(self) -> None:
        """The round failed, if it has sent anything: the next one has to wait."""
        if self.syns.attempts:
            self.failed += 1
            self._retry_at = self._began + self._chance.uniform(*REST)

    def _again_in(self) -> float:
        return max(self._retry_at, self.syns.ready_at()) - self._clock.seconds()
