"""TCP and a clock in memory: `IReactorTCP` and `IReactorTime`, for tests that use no socket and wait for nothing."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ConnectionRefusedError, TimeoutError, UserError
from twisted.internet.interfaces import IConnector, IListeningPort, IReactorTCP, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from pluggable.testing.memory_connection import MemoryTransport

_FIRST_EPHEMERAL = 49152  # RFC 6335 §6
_EVERY_IPV4 = "0.0.0.0"  # noqa: S104  no socket is bound

TCPAddress = IPv4Address | IPv6Address


def _address(host: str, port: int) -> TCPAddress:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


@implementer(IReactorTCP, IReactorTime)
class MemoryNetwork(Clock):
    """A reactor whose connections stay in this process; every IP address is its own.

    What was sent, or asked for, arrives by `advance(0)`. A connection to a port on which nothing listens is refused;
    one to an address in `silent` has no answer, and ends with its timeout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[tuple[str, int]] = set()
        self._ports: dict[tuple[str, int], _Port] = {}
        self._last_ephemeral = _FIRST_EPHEMERAL - 1

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> IListeningPort:
        """See `IReactorTCP`. Raises `CannotListenError` if the address is in use."""
        host, port = interface or _EVERY_IPV4, port or self.unused_port()
        if (host, port) in self._ports:
            raise CannotListenError(interface, port, OSError(errno.EADDRINUSE, "Address already in use"))
        listening = self._ports[host, port] = _Port(self._ports, _address(host, port), factory)
        factory.doStart()
        return listening

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: tuple[str, int] | None = None
    ) -> IConnector:
        """See `IReactorTCP`."""
        source = bindAddress[0] if bindAddress else ("::1" if ":" in host else "127.0.0.1")
        connector = _Connector(self, _address(source, self.unused_port()), _address(host, port), factory, timeout)
        connector.connect()
        return connector

    def unused_port(self) -> int:
        """A port that was not used yet."""
        self._last_ephemeral += 1
        return self._last_ephemeral

    def factory_at(self, address: TCPAddress) -> Any:
        """The factory that listens there, or None."""
        every = "::" if ":" in address.host else _EVERY_IPV4
        listening = self._ports.get((address.host, address.port)) or self._ports.get((every, address.port))
        return None if listening is None else listening.factory


@implementer(IListeningPort)
class _Port:
    def __init__(self, ports: dict[tuple[str, int], _Port], host: TCPAddress, factory: Any) -> None:
        self._ports, self._host, self.factory = ports, host, factory

    def startListening(self) -> None:
        """`listenTCP` has done it."""

    def stopListening(self) -> Deferred[None]:
        if self._ports.pop((self._host.host, self._host.port), None) is not None:
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> TCPAddress:
        return self._host


class _ClientTransport(MemoryTransport):
    """The end of the program that has connected."""

    def __init__(self, connector: _Connector, protocol: Any, host: TCPAddress, peer: TCPAddress) -> None:
        super().__init__(connector.network, protocol, host, peer)
        self._connector = connector

    def lost(self, reason: Failure) -> None:
        super().lost(reason)
        self._connector.lost(reason)


@implementer(IConnector)
class _Connector:
    """Asks the network once."""

    def __init__(
        self, network: MemoryNetwork, source: TCPAddress, destination: TCPAddress, factory: Any, timeout: float
    ) -> None:
        self.network, self._source, self._destination = network, source, destination
        self._factory, self._timeout = factory, timeout
        self._transport: MemoryTransport | None = None
        self._attempt: Any = None

    def connect(self) -> None:
        self._factory.doStart()
        self._factory.startedConnecting(self)
        if (self._destination.host, self._destination.port) in self.network.silent:
            self._attempt = self.network.callLater(self._timeout, self._failed, TimeoutError())
        else:
            self._attempt = self.network.callLater(0, self._connected)

    def stopConnecting(self) -> None:
        if self._attempt is None or not self._attempt.active():
            raise UserError("no connection attempt")
        self._attempt.cancel()
        self._failed(UserError())

    def disconnect(self) -> None:
        if self._transport is None:
            self.stopConnecting()
        else:
            self._transport.loseConnection()

    def getDestination(self) -> TCPAddress:
        return self._destination

    def _connected(self) -> None:
        listening = self.network.factory_at(self._destination)
        server = None if listening is None else listening.buildProtocol(self._source)
        if server is None:
            self._failed(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
            return
        client = self._factory.buildProtocol(self._destination)
        accepted = MemoryTransport(self.network, server, self._destination, self._source)
        self._transport = _ClientTransport(self, client or Protocol(), self._source, self._destination)
        self._transport.connect(accepted)
        if client is None:
            self._transport.abortConnection()

    def _failed(self, error: Exception) -> None:
        self._factory.clientConnectionFailed(self, Failure(error))
        self._factory.doStop()

    def lost(self, reason: Failure) -> None:
        self._factory.clientConnectionLost(self, reason)
        self._factory.doStop()
