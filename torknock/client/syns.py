"""The SYNs that leave for one bridge: within the budget, and each with the time in which its answer is waited for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from math import inf
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from torknock.channel.tls_client import HANDSHAKE_WITHIN
from torknock.client.attempts import TIMEOUTS
from torknock.client.budget import Budget
from torknock.client.round_errors import WrongPeer
from torknock.interfaces import CannotKnock, Slipped

D = TypeVar("D")

FAR = TIMEOUTS[-1]
"""Seconds to an answer from which on a bridge is far away: a round's later SYNs would not wait for it."""

TRIES = 5
"""How often a SYN is prepared that could not leave: another program took its port, or its TSval was over."""

_RESET = (errno.ECONNRESET, errno.EPIPE)
_PORT_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


class SYNs:
    """Those of one round after the other, each from `begin` on. *clock* times the waits."""

    def __init__(self, clock: IReactorTime) -> None:
        self.far = False
        """Whether the last answer took so long that a SYN should be waited for as long as the kernel does."""
        self.attempts = 0
        """SYNs of the round, without those that the kernel sent again."""
        self._clock = clock
        self._budget = Budget()
        self._deadline = inf

    def begin(self, deadline: float) -> None:
        """Begin a round: no SYN leaves whose answer, and the channel behind it, might come after *deadline*."""
        self._deadline, self.attempts = deadline, 0

    def admitted(self) -> None:
        """The bridge admitted this client: what was sent before counts no more."""
        self._budget.clear()

    def ready_at(self) -> float:
        """See `Budget.ready_at`."""
        return self._budget.ready_at()

    def exhausted(self) -> bool:
        """Whether no other SYN may leave now."""
        return self.ready_at() > self._clock.seconds()

    async def pause(self, seconds: float, timeout: float) -> bool:
        """Wait *seconds*, and until another SYN may leave; False, at once, if it could not leave in time."""
        pause = max(seconds, self.ready_at() - self._clock.seconds())
        if self._in_time(self._clock.seconds() + pause) < min(timeout, FAR):
            return False
        await deferLater(self._clock, pause)
        return True

    async def dial(self, dial: Callable[[], Deferred[D]], timeout: float) -> D:
        """What *dial* connects, which is waited for *timeout* seconds at most. Fails as it does, or `WrongPeer`.

        A SYN that could not leave is prepared again; so is one that slipped, while SYNs are left.
        """
        tries_left = TRIES
        while True:
            try:
                return await self._dial(dial, timeout)
            except Slipped as error:
                tries_left -= not error.sent
                if not tries_left or self.exhausted():
                    raise
            except CannotKnock as error:
                tries_left -= 1
                if not tries_left or error.number not in _PORT_TAKEN:
                    raise

    def _in_time(self, at: float) -> float:
        """For how many seconds the answer to a SYN that leaves *at* that time can be waited for."""
        return self._deadline - HANDSHAKE_WITHIN - at

    async def _dial(self, dial: Callable[[], Deferred[D]], timeout: float) -> D:
        at = self._clock.seconds()
        if self._in_time(at) < min(timeout, FAR):
            raise no_time_left()
        timeout = self._budget.timeout(at, min(timeout, self._in_time(at)))
        try:
            connected = await dial().addTimeout(timeout, self._clock)
        except CannotKnock:
            raise
        except Slipped as error:
            if error.sent:
                self.attempts += 1
                self._budget.spend_slipped(at)
            raise
        except BaseException as error:
            self._spend(at)
            if isinstance(error, ConnectionRefusedError):
                self._measure(at)
            if isinstance(error, ConnectError) and error.osError in _RESET:
                raise WrongPeer("it reset the connection at once") from error
            raise
        self._spend(at)
        self._measure(at)
        return connected

    def _measure(self, at: float) -> None:
        """An answer has come to a SYN that left *at* that time."""
        self.far = self._clock.seconds() - at > FAR

    def _spend(self, at: float) -> None:
        self.attempts += 1
        self._budget.spend(at, self._clock.seconds())


def no_time_left() -> CannotKnock:
    """What a request fails with that no SYN could serve in time."""
    return CannotKnock("no knock is sent: this request waited too long to be answered in time; the next one will knock")
