"""What the running bridge counts, and what of it the operator should know. No address comes here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.bridge.refusals import MINUTE, Refusals
from torknock.bridge.status_report import GUESSES_A_SECOND, LineInUse, Status, Trouble, Warned, about

_HIT_NEAR = 60 * GUESSES_A_SECOND
"""Where so few random SYNs hit a token, somebody with many addresses gets in within a minute."""

_REMEMBERED = 3_600.0
"""So long the operator is warned of a connection that was let in and then given nothing."""


@define(eq=False)
class _Open:
    """A connection that proved itself."""

    name: str
    abort: Callable[[], object]


class Monitor:
    """Counts from `start` to `stop`.

    *refused* is `IGate.refused`; *tokens* tells how many ISNs open a connection now, *lines* how many lines do;
    *trouble* says why the gate is closed to everyone, and is empty while it is not; *ignored* likewise which live lines
    open nothing.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        version: str,
        posture: str,
        port: int,
        refused: Callable[[], Deferred[int | None]],
        tokens: Callable[[], int],
        lines: Callable[[], int],
        trouble: Callable[[], str],
        ignored: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._version, self._posture, self._port = version, posture, port
        self._tokens, self._lines, self._trouble, self._ignored = tokens, lines, trouble, ignored
        self._since = clock.seconds()
        self._connections: dict[_Open, None] = {}
        self._opened: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._let_in = 0
        self._given_nothing = 0
        self._disappointed_at = -_REMEMBERED
        self._refusals = Refusals(clock, refused, tokens)
        self._minutely = LoopingCall(self._refusals.end_minute)
        self._minutely.clock = clock

    def start(self) -> None:
        """Look every minute whether too many SYNs were refused."""
        self._since = self._clock.seconds()
        self._minutely.start(MINUTE)

    def stop(self) -> None:
        """Look no more. Connections are counted on, and can be cut."""
        if self._minutely.running:
            self._minutely.stop()

    def let_in(self) -> None:
        """A SYN has opened a connection."""
        self._let_in += 1

    def given_nothing(self) -> None:
        """A connection whose SYN was right did not prove itself."""
        self._given_nothing += 1
        self._disappointed_at = self._clock.seconds()

    def opened(self, name: str, abort: Callable[[], object]) -> Callable[[], None]:
        """A connection has proved that it is the line *name*'s; *abort* cuts it.

        Returns what is to be called when it is no more.
        """
        connection = _Open(name, abort)
        self._connections[connection] = None
        self._opened[name] += 1
        self._used[name] += 1
        return lambda: self._connections.pop(connection, None)

    def counted(self, name: str, upper: IProtocol) -> IProtocol:
        """*upper* in a coat that counts its connection as the line *name*'s, from its first moment to its last."""
        return _Counted(self, name, upper)

    def in_use(self) -> set[str]:
        """The names of the lines that somebody is connected by."""
        return {connection.name for connection in self._connections}

    def cut(self, name: str) -> int:
        """Cut the connections of the line *name*; returns how many there were."""
        found = [connection for connection in self._connections if connection.name == name]
        for connection in found:
            connection.abort()
        return len(found)

    def used(self) -> Mapping[str, int]:
        """How many connections each line has opened since this was last asked."""
        used, self._used = self._used, Counter()
        return dict(used)

    async def status(self) -> Status:
        """All of it, now."""
        await self._refusals.fresh()
        now = Counter(connection.name for connection in self._connections)
        return Status(
            version=self._version,
            uptime=int(self._clock.seconds() - self._since),
            posture=self._posture,
            port=self._port,
            connections=len(self._connections),
            opened=self._opened.total(),
            let_in=self._let_in,
            refused=self._refusals.ever,
            given_nothing=self._given_nothing,
            lines=self._lines(),
            tokens=self._tokens(),
            in_use=tuple(LineInUse(name, now[name], self._opened[name]) for name in sorted(now)),
            warnings=tuple(self._warnings()),
        )

    def _warnings(self) -> list[Warned]:
        warnings = []
        if trouble := _one_line(self._trouble()):
            warnings.append(Warned(Trouble.CLOSED, f"the port is closed to everyone: {trouble}"))
        if ignored := self._ignored():
            warnings.append(Warned(Trouble.IGNORED, ignored))
        if refused := self._refusals.brute_force:
            text = f"possible brute force: {refused:,} SYNs without a valid token in the last minute"
            warnings.append(Warned(Trouble.GUESSING, text))
        if (tokens := self._tokens()) and (syns := 2**32 // tokens) < _HIT_NEAR:
            text = f"{tokens:,} tokens are live, and {syns:,} random SYNs hit one: {about(syns / GUESSES_A_SECOND)}"
            text = f"{text} for {GUESSES_A_SECOND:,} a second; revoke lines, or make them with a smaller --n"
            warnings.append(Warned(Trouble.HIT_NEAR, text))
        if self._given_nothing and self._clock.seconds() - self._disappointed_at < _REMEMBERED:
            text = f"{self._given_nothing:,} connections were let in by their SYN and then given nothing"
            warnings.append(Warned(Trouble.GIVEN_NOTHING, f"{text}; the last within the hour"))
        return warnings


@implementer(IHalfCloseableProtocol)
class _Counted(Protocol):
    """*upper*'s coat: hands everything on."""

    transport: Any

    def __init__(self, monitor: Monitor, name: str, upper: IProtocol) -> None:
        self._monitor, self._name = monitor, name
        self._upper: Any = upper

    def makeConnection(self, transport: ITransport) -> None:
        self.transport = transport
        self._closed = self._monitor.opened(self._name, self.transport.abortConnection)
        self._upper.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._upper.dataReceived(data)

    def readConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed()
        self._upper.connectionLost(reason)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
