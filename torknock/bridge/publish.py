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
from torknock.kernel.interfaces import IReactor
from torknock.service.listener import Accepting, bound

_log = Logger()

_CONNECTIONS_AT_MOST = 16

_TIMEOUT = 5.0
"""Seconds that a peer may take to read."""


class Publication:
    """Publishes what *monitor* counts: at a socket in the keyring's *directory*, for its owner, and at *metrics*.

    What cannot be published is logged; the bridge goes on without it.
    """

    def __init__(self, reactor: IReactor, monitor: Monitor, directory: Path, metrics: Metrics | None = None) -> None:
        self._reactor, self._monitor, self._metrics = reactor, monitor, metrics
        self._path = directory / SOCKET
        self._accepting: list[Accepting] = []
        self._port: IListeningPort | None = None
        self._site: WrappingFactory | None = None

    async def start(self) -> None:
        """Begin, the monitor too."""
        self._monitor.start()
        try:
            self._accept(str(self._path), 0o600, StatusFactory(self._reactor, self._monitor))
        except OSError as error:
            _log.error("torknock status will not work: {path}: {reason}", path=self._path, reason=_reason(error))
        if self._metrics is not None:
            await self._serve(self._metrics)

    async def stop(self) -> None:
        """End, the monitor too. A Unix socket's file stays; the next bridge replaces it."""
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


class StatusFactory(Factory["_StatusConnection"]):
    """Sends the status to each peer, and nothing else."""

    noisy = False

    def __init__(self, clock: IReactorTime, monitor: Monitor) -> None:
        self.clock, self.monitor = clock, monitor
        self.connected = 0

    def buildProtocol(self, addr: object) -> _StatusConnection:
        """The protocol of one peer."""
        return _StatusConnection(self)


class _StatusConnection(Protocol):
    """Sends one line of JSON and closes. What the peer sends is ignored."""

    transport: Any

    def __init__(self, factory: StatusFactory) -> None:
        self._factory = factory

    def connectionMade(self) -> None:
        self._factory.connected += 1
        self._deadline = self._factory.clock.callLater(_TIMEOUT, self.transport.abortConnection)
        self._sending: Deferred[None] | None = None
        if self._factory.connected > _CONNECTIONS_AT_MOST:
            self.transport.abortConnection()
            return
        self._sending = Deferred.fromCoroutine(self._send())
        self._sending.addErrback(self._broken)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.connected -= 1
        if self._deadline.active():
            self._deadline.cancel()
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self) -> None:
        self.transport.write(to_json(await self._factory.monitor.status()))
        self.transport.loseConnection()

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("status not sent", failure=failure)
            self.transport.abortConnection()
