"""The listener behind the gate: takes the connections that it let through, and asks whose SYN opened each."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.kernel.descriptor_limit import Places
from torknock.kernel.segment import BadDatagram
from torknock.kernel.socket_options import TCP_SAVED_SYN
from torknock.kernel.syn_reader import SYNReader
from torknock.protocol.syn import SYN

_log = Logger()

_SAVED_AT_MOST = 512
"""Octets of IP and TCP headers, options and IPv6 extension headers included, that are read of a saved SYN."""

_BACKLOG = 1024
_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: close with RST, as an aborted connection

Welcome = Callable[[SYN, IAddress], Deferred[IProtocol | None]]
"""The protocol for a connection, given its SYN and the client's address; None drops it. Nothing is read until then."""


class Listener:
    """Accepts connections on the sockets that it is given: those that the gate lets SYNs come to.

    A connection is the business of *welcome* if the SYN that opened it was sent to *port*; every other one, such as a
    connection to a hidden port itself from this host, is dropped. So is one that gets none of *places*; its SYN is
    heard and welcomed all the same, for its token is spent.
    """

    def __init__(self, reactor: Any, port: int, welcome: Welcome, places: Places) -> None:
        self._reactor = reactor
        self._doorstep = _Doorstep(self, port, welcome, places)
        self._ports: list[IListeningPort] = []
        self.heard: Callable[[SYN], None] = lambda _syn: None
        """Called with the SYN of each accepted connection, for a gate that must know which tokens were used."""

    def adopt(self, listening: Sequence[socket.socket]) -> None:
        """Accept on *listening* from now on, and no longer on what was adopted before. They are closed here."""
        self.stop()
        for each in listening:
            with each:
                self._ports.append(self._reactor.adoptStreamPort(each.fileno(), each.family, self._doorstep))

    def stop(self) -> Deferred[Any]:
        """Accept nothing more, but for those whose SYN was answered already; connections that were accepted live on."""
        ports, self._ports = self._ports, []
        for port in ports:
            _drain(port)
        return gatherResults([Deferred.fromCoroutine(_stopped(port)) for port in ports])


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


class _Doorstep(Factory):
    """Asks each connection for its SYN before anything else happens to it."""

    noisy = False

    def __init__(self, listener: Listener, port: int, welcome: Welcome, places: Places) -> None:
        self.listener = listener
        self.syns = SavedSYNs(port)
        self.welcome = welcome
        self.places = places

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        assert addr is not None  # noqa: S101  a connection that was accepted comes from somewhere
        return _Newcomer(self, addr)


class _Newcomer(Protocol):
    """A connection that nobody has asked yet: it becomes somebody's, or is dropped."""

    def __init__(self, doorstep: _Doorstep, address: IAddress) -> None:
        self._doorstep = doorstep
        self._address = address
        self._lost = False

    def connectionMade(self) -> None:
        transport = cast("Server", self.transport)
        syn = self._doorstep.syns.syn(transport.getHandle())
        if syn is None:
            _drop(transport)
            return
        if self._doorstep.places.take():
            _when_lost(transport, self._doorstep.places.give_back)
            transport.pauseProducing()
        else:
            self._lost = True
            _drop(transport)
        self._doorstep.listener.heard(syn)
        self._doorstep.welcome(syn, self._address).addCallbacks(self._welcomed, self._failed)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True

    def _welcomed(self, upper: IProtocol | None) -> None:
        transport = cast("Server", self.transport)
        if upper is None or self._lost:
            transport.abortConnection()
            return
        transport.resumeProducing()
        transport.protocol = upper
        upper.makeConnection(transport)

    def _failed(self, failure: Failure) -> None:
        _log.failure("a connection is dropped, because its welcome broke", failure=failure)
        cast("Server", self.transport).abortConnection()


def _drop(transport: Server) -> None:
    """Abort the connection, and have its descriptor at once: the reactor accepts many before it closes one."""
    transport.abortConnection()
    handle = transport.getHandle()
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    handle.close()


def _when_lost(transport: Any, then: Callable[[], None]) -> None:
    """Have *then* called when the connection has ended, whoever's it is by then."""
    lost = transport.connectionLost

    def connection_lost(reason: Failure) -> None:
        del transport.connectionLost
        try:
            lost(reason)
        finally:
            then()

    transport.connectionLost = connection_lost


class SavedSYNs:
    """Reads the SYNs that the kernel has saved, those that were sent to *port*."""

    def __init__(self, port: int) -> None:
        self._reader = SYNReader(port, verify=False)  # the kernel has verified it, and saves no data

    def syn(self, accepted: socket.socket) -> SYN | None:
        """The SYN that opened *accepted*; None if it was to another port, or none was saved.

        The kernel hands a saved SYN out once.
        """
        try:
            return self._reader.read(accepted.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _SAVED_AT_MOST))
        except OSError as why:
            _log.warn("a connection is dropped: the kernel saved no SYN: {reason}", reason=why.strerror)
        except BadDatagram as why:
            _log.warn("a connection is dropped: its saved SYN cannot be read: {reason}", reason=str(why))
        return None
