"""Where the running bridge's counts can be read: `status.sock` beside the keyring, and metrics for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure

from torknock.bridge.counts import Monitor
from torknock.bridge.metrics import Metrics, site
from torknock.bridge.status_report import SOCKET, to_json
from torknock.service.listener import Accepting, bound

_log = Logger()

_ASKERS = 16
"""Connections to the socket at once."""

_PATIENCE = 5.0
"""So long an asker may take to read."""


class Publication:
    """Lets the owner of the keyring's *directory* read what *monitor* counts, and *metrics* too if they are wanted.

    What cannot be published is said in the log: a bridge does not fail for it.
    """

    def __init__(self, reactor: Any, monitor: Monitor, directory: Path, metrics: Metrics | None = None) -> None:
        self._reactor, self._monitor, self._metrics = reactor, monitor, metrics
        self._path = directory / SOCKET
        self._accepting: list[Accepting] = []
        self._port: IListeningPort | None = None
        self._site: WrappingFactory | None = None

    async def start(self) -> None:
        """Begin, the monitor too."""
        self._monitor.start()
        try:
            self._accept(str(self._path), 0o600, Tellers(self._reactor, self._monitor))
        except OSError as error:
            _log.error("torknock status will not work: {path}: {reason}", path=self._path, reason=_reason(error))
        if self._metrics is not None:
            await self._serve(self._metrics)

    async def stop(self) -> None:
        """End, the monitor too. What is left of a Unix socket is replaced by the next who starts."""
        self._monitor.stop()
        accepting, self._accepting = self._accepting, []
        for each in accepting:
            each.stop()
        if self._port is not None:
            port, self._port = self._port, None
            await _stopped(port)
        if self._site is not None:
            self._site.doStop()
            self._site = None

    def _accept(self, path: str, mode: int, factory: Factory[Any]) -> None:
        self._accepting.append(Accepting(self._reactor, bound(path, mode), factory))

    async def _serve(self, metrics: Metrics) -> None:
        factory = site(self._reactor, self._monitor)
        kind = TCP6ServerEndpoint if ":" in metrics.where else TCP4ServerEndpoint
        try:
            if metrics.port:
                endpoint: IStreamServerEndpoint = kind(self._reactor, metrics.port, interface=metrics.where)
                self._port = await endpoint.listen(factory)
            else:
                self._accept(metrics.where, 0o660, factory)
                factory.doStart()
                self._site = factory
        except (CannotListenError, OSError) as error:
            reason = _reason(error.socketError if isinstance(error, CannotListenError) else error)
            _log.error("metrics cannot be served at {where}: {reason}", where=metrics.where, reason=reason)


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


class Tellers(Factory["_Teller"]):
    """Tells each who comes the status, and nothing else."""

    noisy = False

    def __init__(self, clock: IReactorTime, monitor: Monitor) -> None:
        self.clock, self.monitor = clock, monitor
        self.askers = 0

    def buildProtocol(self, addr: object) -> _Teller:
        """For whoever comes."""
        return _Teller(self)


class _Teller(Protocol):
    """One line of JSON, and the connection is closed. What the asker says is not looked at."""

    transport: Any

    def __init__(self, tellers: Tellers) -> None:
        self._tellers = tellers

    def connectionMade(self) -> None:
        self._tellers.askers += 1
        self._impatience = self._tellers.clock.callLater(_PATIENCE, self.transport.abortConnection)
        self._telling: Deferred[None] | None = None
        if self._tellers.askers > _ASKERS:
            self.transport.abortConnection()
            return
        self._telling = Deferred.fromCoroutine(self._tell())
        self._telling.addErrback(self._broken)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._tellers.askers -= 1
        if self._impatience.active():
            self._impatience.cancel()
        if self._telling is not None:
            self._telling.cancel()

    async def _tell(self) -> None:
        self.transport.write(to_json(await self._tellers.monitor.status()))
        self.transport.loseConnection()

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("the status cannot be told", failure=failure)
            self.transport.abortConnection()
