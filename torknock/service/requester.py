"""The asking side of a conversation with a privileged service, over a Unix stream socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from twisted.internet.defer import Deferred, DeferredLock, fail
from twisted.internet.interfaces import IAddress, IFileDescriptorReceiver
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.unix import Server
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.errors import TorknockError
from torknock.kernel.interfaces import IReactor
from torknock.service.grammar import Lines, Malformed, octets

_TRIES = 500
_BREATH = 0.02
"""Seconds between two tries at a service that has more peers waiting than it takes: 10 s in all, and often enough to
find a place while another user takes every place that it can."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered: the words behind `ok`, and sockets that came with them, the caller's to close."""

    words: tuple[str, ...]
    descriptors: tuple[socket.socket, ...]


Heard = Callable[["ServiceConnection", str], None]
Lost = Callable[["ServiceConnection"], None]


class ServiceMissing(TorknockError):
    """No service listens at *path*, or it does not let this user connect."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"no torknock service at {path}: {reason}")
        self.reason = reason


class ServiceLost(TorknockError):
    """The connection ended before the answer came."""

    def __init__(self, path: str, why: str = "it has ended the connection") -> None:
        super().__init__(f"the torknock service at {path} is lost: {why}")


class ServiceRefused(TorknockError):
    """The service answered `no`; *kind* is its word for the program.

    Of every service are `refused` (this user may not ask), `busy` (too many peers), `bad` (malformed, oversized, slow,
    out of turn) and `broken` (a fault of the service); behind each of them the connection ends.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def connect(
    reactor: IReactor,
    path: str,
    heard: Heard | None = None,
    lost: Lost | None = None,
) -> Deferred[ServiceConnection]:
    """A connection to the service at *path*. Fails with `ServiceMissing`.

    *heard* is called with the connection and each line that comes unasked (one that begins with neither `ok` nor `no`);
    without it such a line ends the connection. *lost* is called with it once, when it has ended, whichever side ended
    it. By then its owner may have made another.
    """
    return Deferred.fromCoroutine(_connect(reactor, path, ServiceConnection(path, heard, lost)))


async def _connect(reactor: IReactor, path: str, connection: ServiceConnection) -> ServiceConnection:
    for tries_left in reversed(range(_TRIES)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connecting:
            connecting.setblocking(False)
            try:
                connecting.connect(path)  # either it stands at once, or there are too many who wait
                reactor.adoptStreamConnection(connecting.fileno(), socket.AF_UNIX, _Factory(connection))
                return connection
            except BlockingIOError as error:
                if not tries_left:
                    raise ServiceMissing(path, "it does not answer") from error
            except OSError as error:
                raise ServiceMissing(path, error.strerror or type(error).__name__) from error
        await deferLater(reactor, _BREATH)
    raise AssertionError("the last try returns or raises")


class _Factory(Factory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol


@implementer(IFileDescriptorReceiver)
class ServiceConnection(Protocol):
    """The asking side of a conversation; made by `connect`."""

    def __init__(self, path: str, heard: Heard | None, lost: Lost | None) -> None:
        self._path, self._heard, self._lost = path, heard, lost
        self._lines = Lines()
        self._turn = DeferredLock()
        self._waiting: Deferred[Answer] | None = None
        self._received: list[socket.socket] = []
        self._over = False
        self._last_no: ServiceRefused | None = None

    def ask(self, line: str) -> Deferred[Answer]:
        """The service's answer to *line*; one is asked after the other.

        Fails with `ServiceRefused` if it is `no`, with `ServiceLost` if the connection ends or has ended. Cancelling
        ends the connection, because the next answer could not be told from this one.
        """
        return self._turn.run(self._ask, line)

    def tell(self, line: str) -> None:
        """Send *line*, for which no answer comes. Does nothing when the connection has ended."""
        if not self._over:
            cast("Server", self.transport).write(octets(line))

    def close(self) -> None:
        """End the connection now. May be called again."""
        if not self._over:
            self._end()
            cast("Server", self.transport).abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Take what came."""
        self._lines.feed(data)
        try:
            while not self._over and (line := self._lines.line()) is not None:
                self._line(line)
        except Malformed:
            self.close()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """It belongs to the next answer."""
        os.set_inheritable(descriptor, False)
        try:
            self._received.append(socket.socket(fileno=descriptor))
        except OSError:
            os.close(descriptor)  # no socket

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Either side has ended it."""
        self._end()
        if self._lost is not None:
            self._lost(self)

    def _ask(self, line: str) -> Deferred[Answer]:
        if self._over:
            return fail(self._last_no or ServiceLost(self._path))
        said = octets(line)
        self._waiting = Deferred(self._given_up)
        cast("Server", self.transport).write(said)
        return self._waiting

    def _given_up(self, _waiting: Deferred[Answer]) -> None:
        self._waiting = None
        self.close()

    def _line(self, line: str) -> None:
        first, *words = line.split(" ")
        if first not in ("ok", "no"):
            if self._heard is None:
                raise Malformed("a line without a request")
            return self._heard(self, line)
        waiting, self._waiting = self._waiting, None
        received, self._received = self._received, []
        if first == "ok" and waiting is not None:
            return waiting.callback(Answer(tuple(words), tuple(received)))
        for each in received:
            each.close()
        if first == "ok":
            raise Malformed("an answer without a request")
        refused = ServiceRefused(words[0] if words else "bad", " ".join(words[1:]) or "it does not say why")
        if waiting is None:
            self._last_no = refused
        else:
            waiting.errback(refused)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        waiting, self._waiting = self._waiting, None
        received, self._received = self._received, []
        for each in received:
            each.close()
        if waiting is not None and not waiting.called:
            waiting.errback(self._last_no or ServiceLost(self._path))
