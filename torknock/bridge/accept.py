"""The listener behind the gate: accepted connections, each with the SYN that opened it."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.kernel.interfaces import IReactor
from torknock.kernel.syn_reader import SavedSYNs
from torknock.protocol.syn import SYN

_log = Logger()

_BACKLOG = 1024
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: close with RST, as an aborted connection


class AcceptedConnection(Protocol):
    """A TCP connection from which nothing is read until `carry`."""

    transport: Any
    syn: SYN
    """The SYN that opened it."""

    def __init__(self, factory: _AcceptFactory, address: IAddress) -> None:
        self._factory = factory
        self.address = address
        """The client's."""
        self.closed: Deferred[None] = Deferred()
        """Fires when the connection has ended, after its protocol was told."""

    def connectionMade(self) -> None:
        """Read the SYN; a connection without one is dropped."""
        transport = self.transport
        syn = self._factory.syns.syn(transport.getHandle())
        if syn is None:
            _drop(transport)
            return
        self.syn = syn
        _when_lost(transport, lambda: self.closed.callback(None))
        transport.pauseProducing()
        self._factory.accepted(self)

    def carry(self, protocol: IProtocol, octets: bytes = b"") -> None:
        """Connect *protocol*, which receives *octets* first and then what the client sends.

        It takes the place of the protocol that was connected before.
        """
        if self.transport.protocol is self:
            self.transport.resumeProducing()
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if octets:
            protocol.dataReceived(octets)

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()

    def drop(self) -> None:
        """Reset the connection and free its descriptor at once: the reactor accepts many before it closes one."""
        _drop(self.transport)


class Listener:
    """Accepts connections on the sockets that it is given: those that the gate lets SYNs come to.

    A connection counts if the SYN that opened it was sent to *port*; every other one, such as a connection to a hidden
    port itself from this host, is dropped.
    """

    def __init__(self, reactor: IReactor, port: int) -> None:
        self._reactor = reactor
        self._syns = SavedSYNs(port)
        self._waiting: DeferredQueue[AcceptedConnection | None] = DeferredQueue()
        self._ports: list[IListeningPort] = []

    def accept(self) -> Deferred[AcceptedConnection | None]:
        """The next connection, as soon as it is accepted; None after `close`."""
        return self._waiting.get()

    def adopt(self, listening: Sequence[socket.socket], on_syn: Callable[[SYN], object] = lambda _syn: None) -> None:
        """Accept on *listening* from now on, and no longer on what was adopted before. They are closed here.

        *on_syn* is called with the SYN of each connection before anything else happens to it.
        """
        self.stop()

        def accepted(connection: AcceptedConnection) -> None:
            on_syn(connection.syn)
            self._waiting.put(connection)

        factory = _AcceptFactory(self._syns, accepted)
        for each in listening:
            with each:
                self._ports.append(self._reactor.adoptStreamPort(each.fileno(), each.family, factory))

    def stop(self) -> Deferred[Any]:
        """Accept nothing more, but for those whose SYN was answered already; accepted connections stay open."""
        ports, self._ports = self._ports, []
        for port in ports:
            _drain(port)
        return gatherResults([Deferred.fromCoroutine(_stopped(port)) for port in ports])

    async def close(self) -> None:
        """Stop permanently: `accept` gives what was accepted by then, and no more."""
        await self.stop()
        self._waiting.put(None)


def _drain(port: Any) -> None:
    """Accept the connections that wait at *port*: what opened them is spent, and must be known to be."""
    waiting = select.poll()
    waiting.register(port, select.POLLIN)
    for _ in range(_BACKLOG):
        if not waiting.poll(0):
            return
        port.doRead()


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


class _AcceptFactory(Factory["AcceptedConnection"]):
    """Calls *accepted* with each connection whose SYN *syns* has."""

    noisy = False

    def __init__(self, syns: SavedSYNs, accepted: Callable[[AcceptedConnection], None]) -> None:
        self.syns = syns
        self.accepted = accepted

    def buildProtocol(self, addr: IAddress | None) -> AcceptedConnection:
        assert addr is not None  # noqa: S101  a connection that was accepted comes from somewhere
        return AcceptedConnection(self, addr)


def _drop(transport: Server) -> None:
    """Abort the connection and close its descriptor."""
    transport.abortConnection()
    handle = transport.getHandle()
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    handle.close()


def _when_lost(transport: Any, then: Callable[[], None]) -> None:
    """Have *then* called when the connection has ended, whichever protocol it has by then."""
    lost = transport.connectionLost

    def connection_lost(reason: Failure) -> None:
        del transport.connectionLost
        try:
            lost(reason)
        finally:
            then()

    transport.connectionLost = connection_lost
