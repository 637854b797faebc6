"""The Unix socket to which the site passes requests for a bridge's path, and the answers to them (protocol.md §3a)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.bridge.site_certificate import SiteUnusable
from torknock.kernel.interfaces import IReactor
from torknock.kernel.places import TUNNEL_SOCKET
from torknock.protocol.upgrade import NOT_FOUND, HeadReader, NotAnUpgrade, UpgradeRequest, read_request

_log = Logger()

_HEAD_WITHIN = 10.0
"""Seconds that a web server has to pass a head on, which it does at once."""

HEADLESS_AT_MOST = 512
"""Connections without a head; above it the oldest is closed. Every local user can make some, a web server has few."""

_BACKLOG = 1024
_FOR_ALL = 0o666
"""The web server is another user. A request proves itself."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What becomes of a request with a right proof."""

    answer: bytes
    upper: IProtocol
    """It gets the connection behind the answer: the service's octets, as on a connection of its own."""
    done: Callable[[], object]
    """Called when it has it."""


Judge = Callable[[UpgradeRequest], Awaitable[Upgraded | None]]
"""What becomes of a request; None if it is not a client's."""


class Tunnel:
    """Answers the requests for `/`*path* that come to the Unix socket in *directory*, as *judge* says."""

    def __init__(self, reactor: IReactor, directory: Path, path: str, judge: Judge) -> None:
        self._reactor, self._directory = reactor, directory
        self._factory = _RequestFactory(reactor, path, judge)
        self._held = -1
        self._port: IListeningPort | None = None

    @property
    def listening(self) -> bool:
        """Whether its socket is there."""
        return self._port is not None and (self._directory / TUNNEL_SOCKET).is_socket()

    def start(self) -> None:
        """Listen, in the place of a socket that was left there. Raises `SiteUnusable`.

        May be called again, once its socket is no longer `listening`.
        """
        port, self._port = self._port, None
        if port is not None:
            port.stopListening()
        self._release(False)
        try:
            self._held = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = self._directory / TUNNEL_SOCKET
            path.unlink(missing_ok=True)
            port = _Port(os.fsencode(path), self._factory, _BACKLOG, _FOR_ALL, self._reactor)
            port.startListening()  # type: ignore[no-untyped-call]
            self._port = port
        except BlockingIOError:
            self._release(False)
            remedy = "give each bridge a directory of its own with site=DIR, and a server block of its own"
            raise SiteUnusable(f"another bridge uses {self._directory}", remedy) from None
        except (OSError, CannotListenError) as error:
            self._release(False)
            cause = error if isinstance(error, OSError) else error.socketError
            remedy = f"make {self._directory}, owned by tor's user; the web server's user must be able to enter it"
            reason = getattr(cause, "strerror", None) or type(cause).__name__
            raise SiteUnusable(f"cannot listen on {self._directory / TUNNEL_SOCKET}: {reason}", remedy) from None

    async def stop(self) -> None:
        """Listen no longer; connections stay."""
        port, self._port = self._port, None
        closed = None if port is None else port.stopListening()
        self._release(port is not None)
        if closed is not None:
            await closed

    def _release(self, listened: bool) -> None:
        """Let go of the directory; the socket in it goes if it is ours."""
        if listened:
            (self._directory / TUNNEL_SOCKET).unlink(missing_ok=True)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


class _Port(unix.Port):
    """Twisted's, which would remove whatever is at its path when it is closed."""

    def connectionLost(self, reason: Failure) -> None:
        """It is closed."""
        tcp.Port.connectionLost(self, reason)


class _RequestFactory(Factory[Any]):
    noisy = False

    def __init__(self, clock: IReactorTime, path: str, judge: Judge) -> None:
        self.clock, self.path, self.judge = clock, path, judge
        self._headless: dict[_Request, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> _Request:
        return _Request(self)

    def came(self, newcomer: _Request) -> None:
        """Count a connection without a head; one too many closes the oldest."""
        self._headless[newcomer] = None
        if len(self._headless) > HEADLESS_AT_MOST:
            next(iter(self._headless)).crowd_out()

    def left(self, request: _Request) -> None:
        """Count it no more: its head has come, or it is over."""
        self._headless.pop(request, None)


class _Request(Protocol):
    """A connection of the web server's: one request, one answer, and after a right proof the service."""

    transport: Any

    def __init__(self, factory: _RequestFactory) -> None:
        self._factory = factory
        self._reader = HeadReader()
        self._timer: IDelayedCall | None = None
        self._over = False

    def connectionMade(self) -> None:
        """Wait for the head."""
        self._timer = self._factory.clock.callLater(_HEAD_WITHIN, self._refuse)
        self._factory.came(self)

    def crowd_out(self) -> None:
        """Make room for another connection, at once."""
        self._over = True
        self._settle()
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Read the head, and no further."""
        if self._over:
            return
        try:
            self._reader.feed(data)
            if self._reader.rest:
                raise NotAnUpgrade("something follows it")
            if self._reader.head is not None:
                self._over = True
                self._settle()
                request = read_request(self._reader.head, self._factory.path)
                Deferred.fromCoroutine(self._answered(request))
        except NotAnUpgrade:
            self._refuse()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It has gone before it was answered."""
        self._over = True
        self._settle()
        self.transport = None

    async def _answered(self, request: UpgradeRequest) -> None:
        try:
            upgraded = await self._factory.judge(request)
        except Exception:  # noqa: BLE001  a fault must not keep the web server waiting
            _log.failure("a request of the site could not be judged")
            upgraded = None
        if self.transport is None:
            return
        if upgraded is None or self._reader.rest:
            self._refuse()
            return
        transport = self.transport
        transport.write(upgraded.answer)
        transport.protocol = upgraded.upper
        upgraded.upper.makeConnection(transport)
        upgraded.done()

    def _refuse(self) -> None:
        self._over = True
        self._settle()
        self.transport.write(NOT_FOUND)
        self.transport.loseConnection()

    def _settle(self) -> None:
        """No head is waited for any more."""
        self._factory.left(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
