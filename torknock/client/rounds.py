"""Rounds of SYNs for one bridge, for both schemes: one at a time, with pauses and a backoff (protocol.md §2.4).

The law: requests for one bridge wait for a lock, in the order in which they came, and one of them at a time runs a
round. A round begins (`BridgeSilent` while the backoff lasts), sends its SYNs one after the other, each after its
pause and within the budget, and ends in one of these ways:

- `opened` returned: the bridge let this client in. Budget, backoff and count of failed rounds are cleared.
- Every SYN was unanswered, refused, or answered by something else: the backoff begins, and `BridgeSilent` is raised.
- A network on the way said that there is no way, or the request was cancelled: the backoff begins, the error is raised.
- This host cannot send a SYN, or all tokens are used: the error is raised, and no backoff begins.

No SYN leaves outside a round, and no two rounds overlap. Every SYN that leaves has, before the request's deadline, the
time in which its answer is waited for, and then the time that a channel may take to open.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from torknock.channel.tls import HANDSHAKE_WITHIN
from torknock.client.attempts import PATIENCE, PATIENCE_ALONE, PAUSES, Chance
from torknock.client.budget import Budget
from torknock.errors import TorknockError
from torknock.interfaces import CannotKnock, Slipped

T = TypeVar("T")
D = TypeVar("D")

REST = (40.0, 52.0)
"""Seconds from the beginning of a failed round to the next, at least and at most, if the budget does not want more."""

SEARCH_AGAIN_AFTER = 600.0
"""Seconds between two clock searches for one bridge that does not let this client in."""

FAR = PATIENCE[-1]
"""Seconds to an answer from which on a bridge is far away: a round's later SYNs would not wait for it."""

REQUEST_WITHIN = PATIENCE_ALONE + HANDSHAKE_WITHIN
"""Seconds that a request needs at most: for the longest wait for an answer, and the channel behind it.

A round of several SYNs takes less: up to 46 s in silence, and the channel. `connect` itself gives up after 127 s, which
is what tor sees of transports that set no limit.
"""

TRIES = 5
"""How often a SYN is prepared that could not leave: another program took its port, or its TSval was over."""

_FAILURES = (TimeoutError, TCPTimedOutError, ConnectionRefusedError, Slipped)
"""What a dial fails with if the SYN was not answered, or refused, or left too late."""

_RESET = (errno.ECONNRESET, errno.EPIPE)
_PORT_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


class WrongPeer(TorknockError):
    """What accepted the connection is not the bridge, for this *reason*: the token was not taken by the bridge."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"something other than the bridge answered: {reason}")


class BridgeSilent(TorknockError):
    """The bridge did not let us in; its cause is the error of the last SYN.

    *refused* says whether an answer came; *again_in* is the number of seconds until the next SYN may leave.
    """

    def __init__(self, text: str, refused: bool, again_in: float = 0.0) -> None:
        super().__init__(text)
        self.refused = refused
        self.again_in = again_in


class HungUp(TorknockError):
    """The bridge let this client in, and ended the connection without a word: its service refuses clients."""

    def __init__(self) -> None:
        super().__init__("the bridge let this client in, then hung up: its tor hibernates, or does not run")


class NotTheBridge(BridgeSilent):
    """As `BridgeSilent`; a SYN of the round was answered, but not by the bridge."""

    def __init__(self, reason: WrongPeer, again_in: float) -> None:
        super().__init__(
            f"{reason}. Either the bridge did not take the token (used by another device with this line, a revoked "
            "line, a wrong clock) and the port's ordinary service answered, or the connection is being intercepted. "
            "Nothing secret was sent",
            refused=True,
            again_in=again_in,
        )


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

    def patience(self, number: int) -> float:
        """For how many seconds the answer to SYN *number*, from 0, is waited for."""

    async def dial(self, number: int) -> Knocked | None:
        """Dial SYN *number* by `Rounds.dial`. None if there is nothing to send for it."""

    def ends(self, number: int) -> bool:
        """Whether the failure of SYN *number* ends the round if no other SYN may leave now; else it is waited for."""

    def accepted(self, number: int) -> None:
        """The bridge let this client in by SYN *number*."""


class Rounds:
    """What is remembered of one bridge for the life of the process. *clock* times the waits."""

    def __init__(self, clock: IReactorTime, chance: Chance) -> None:
        self.failed = 0
        """Rounds that failed since the last that did not, or since the last clock search began."""
        self.far = False
        """Whether the last answer took so long that a SYN should be waited for as long as the kernel does."""
        self._clock, self._chance = clock, chance
        self._lock = DeferredLock()
        self._budget = Budget()
        self._retry_at = float("-inf")
        self._began = 0.0
        self._deadline = inf
        self._searched = 0.0
        self._attempts = 0
        self._error: Exception | None = None
        self._wrong: WrongPeer | None = None

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
                if not await self._paused(number, plan.patience(number)):
                    break
                try:
                    knocked = await plan.dial(number)
                    if knocked is None:
                        continue
                    made = await opened(knocked)
                except (*_FAILURES, WrongPeer) as error:
                    self._note(error)
                    if self._spent() and plan.ends(number):
                        break
                else:
                    self._succeed()
                    plan.accepted(number)
                    return made
        except (ConnectError, CancelledError) as error:
            self._note(error)
            self._fail()
            raise
        self._fail()
        if not self._attempts:
            raise _no_time_left()
        raise self._failure(plan.reasons)

    async def dial(self, dial: Callable[[], Deferred[D]], patience: float) -> D:
        """What *dial* connects, which is waited for *patience* seconds at most. Fails as it does, or `WrongPeer`.

        A SYN that could not leave is prepared again; so is one that slipped, while SYNs are left.
        """
        tries_left = TRIES
        while True:
            try:
                return await self._dial(dial, patience)
            except Slipped as error:
                tries_left -= not error.sent
                if not tries_left or self._spent():
                    raise
            except CannotKnock as error:
                tries_left -= 1
                if not tries_left or error.number not in _PORT_TAKEN:
                    raise

    @property
    def attempts(self) -> int:
        """SYNs of the round, without those that the kernel sent again."""
        return self._attempts

    def hung_up(self) -> None:
        """The bridge let this client in and hung up: back off as from one that is silent, and doubt no clock."""
        self._error = HungUp()
        self._retry_at = self._clock.seconds() + self._chance.uniform(*REST)

    def _begin(self, deadline: float) -> None:
        """Begin a round. Raises `BridgeSilent` if it is too early for that."""
        again_in = self._again_in()
        if again_in > 0:
            what = f"backing off after failed attempts; next attempt in {again_in:.0f} s"
            raise BridgeSilent(f"{what} ({self._how()})", self._refused(), again_in) from self._error
        self._deadline = deadline
        self._began, self._attempts, self._error, self._wrong = self._clock.seconds(), 0, None, None
        if self.failed > 1 and self._began - self._searched >= SEARCH_AGAIN_AFTER:
            self.failed = 0
        if not self.failed:
            self._searched = self._began

    async def _paused(self, number: int, patience: float) -> bool:
        """Wait as long as it takes before SYN *number* of the round; False, at once, if it could not leave in time."""
        pause = max(self._chance.uniform(*PAUSES[number]), self._budget.ready_at() - self._clock.seconds())
        if self._in_time(self._clock.seconds() + pause) < min(patience, FAR):
            return False
        await deferLater(self._clock, pause)
        return True

    def _in_time(self, at: float) -> float:
        """For how many seconds the answer to a SYN that leaves *at* that time can be waited for."""
        return self._deadline - HANDSHAKE_WITHIN - at

    def _spent(self) -> bool:
        """Whether no other SYN may leave now."""
        return self._budget.ready_at() > self._clock.seconds()

    async def _dial(self, dial: Callable[[], Deferred[D]], patience: float) -> D:
        at = self._clock.seconds()
        if self._in_time(at) < min(patience, FAR):
            raise _no_time_left()
        patience = self._budget.patience(at, min(patience, self._in_time(at)))
        try:
            connected = await dial().addTimeout(patience, self._clock)
        except CannotKnock:
            raise
        except Slipped as error:
            if error.sent:
                self._attempts += 1
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
        self._attempts += 1
        self._budget.spend(at, self._clock.seconds())

    def _note(self, error: Exception) -> None:
        """A SYN of the round failed with *error*. What the bridge said, or did not say, tells more than `Slipped`."""
        if self._error is None or not isinstance(error, Slipped):
            self._error = error
        if isinstance(error, WrongPeer):
            self._wrong = error

    def _succeed(self) -> None:
        """The bridge let this client in."""
        self._budget.clear()
        self.failed = 0
        self._retry_at = float("-inf")
        self._error = None

    def _fail(self) -> None:
        """The round failed, if it has sent anything: the next one has to wait."""
        if self._attempts:
            self.failed += 1
            self._retry_at = self._began + self._chance.uniform(*REST)

    def _failure(self, reasons: str) -> BridgeSilent:
        """What is said of the round that has failed."""
        if self._wrong is not None:
            error: BridgeSilent = NotTheBridge(self._wrong, self._again_in())
        else:
            what = f"the bridge accepted none of {self._attempts} connection attempts ({self._how()}); {reasons}"
            error = BridgeSilent(what, self._refused(), self._again_in())
        error.__cause__ = self._error
        return error

    def _again_in(self) -> float:
        return max(self._retry_at, self._budget.ready_at()) - self._clock.seconds()

    def _refused(self) -> bool:
        return isinstance(self._error, (ConnectionRefusedError, WrongPeer))

    def _how(self) -> str:
        if isinstance(self._error, ConnectionRefusedError):
            return "it refused"
        if isinstance(self._error, (TorknockError, ConnectError)) and not isinstance(self._error, TCPTimedOutError):
            return str(self._error)
        return "nothing came back"


def _no_time_left() -> CannotKnock:
    return CannotKnock("no knock is sent: this request waited too long to be answered in time; the next one will knock")
