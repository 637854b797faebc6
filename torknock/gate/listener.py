"""The hidden listener: takes the connections that the gate let through, and asks whose SYN opened each."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Server
from twisted.logger import Logger
from zope.interface import implementer

from torknock.linux import IPV6_TRANSPARENT, TCP_SAVE_SYN, TCP_SAVED_SYN
from torknock.segment import TCP, BadDatagram, IPv4Protocol, IPv6Protocol, ISegmentProtocol, Segment, TCPProtocol

_log = Logger()

_SAVED_AT_MOST = 512
"""Octets of IP and TCP headers, options and IPv6 extension headers included, that are read of a saved SYN."""

_BACKLOG = 1024

Welcome = Callable[[int, IAddress], IProtocol | None]
"""The protocol for a connection, given the ISN of its SYN and the client's address; None drops it."""


class HiddenListener:
    """A listener on 127.0.0.1 and one on ::1 that accept what the gate's `tproxy` takes to them.

    A connection is the business of *welcome* if the SYN that opened it was sent to *port*; every other one, such as a
    connection to the hidden port itself from this host, is dropped.
    """

    def __init__(self, reactor: Any, port: int, welcome: Welcome) -> None:
        self._ports: list[IListeningPort] = []
        self.hidden_ipv4 = self._listen(reactor, socket.AF_INET, "127.0.0.1", port, welcome)
        self.hidden_ipv6 = self._listen(reactor, socket.AF_INET6, "::1", port, welcome)

    def _listen(self, reactor: Any, family: socket.AddressFamily, host: str, port: int, welcome: Welcome) -> int:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            # What is accepted here is bound to the protected port, and must not keep a later gate from looking at it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET:
                listener.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
            else:
                listener.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
            listener.bind((host, 0))
            listener.listen(_BACKLOG)
            hidden = listener.getsockname()[1]
            self._ports.append(reactor.adoptStreamPort(listener.fileno(), family, _Doorstep(port, welcome)))
        return int(hidden)

    def stop(self) -> Deferred[Any]:
        """Accept nothing more; connections that were accepted live on."""
        return gatherResults([Deferred.fromCoroutine(_stopped(port)) for port in self._ports])


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


class _Doorstep(Factory):
    """Asks each connection for its SYN before anything else happens to it."""

    noisy = False

    def __init__(self, port: int, welcome: Welcome) -> None:
        self._port = port
        self._welcome = welcome

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        assert addr is not None  # noqa: S101  a connection that was accepted comes from somewhere
        return _Newcomer(self._port, addr, self._welcome)


class _Newcomer(Protocol):
    """A connection that nobody has asked yet: it becomes somebody's at once, or is dropped."""

    def __init__(self, port: int, address: IAddress, welcome: Welcome) -> None:
        self._port = port
        self._address = address
        self._welcome = welcome

    def connectionMade(self) -> None:
        transport = cast("Server", self.transport)
        isn = saved_isn(transport.getHandle(), self._port)
        upper = None if isn is None else self._welcome(isn, self._address)
        if upper is None:
            transport.abortConnection()
        else:
            transport.protocol = upper
            upper.makeConnection(transport)


def saved_isn(accepted: socket.socket, port: int) -> int | None:
    """The ISN of the SYN to *port* that opened *accepted*; None if it was to another port, or none was saved.

    The kernel hands a saved SYN out once.
    """
    try:
        octets = accepted.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _SAVED_AT_MOST)
    except OSError:
        return None
    heard = _Heard()
    tcp = TCPProtocol()
    tcp.addProto(port, heard)
    ip = IPv6Protocol() if accepted.family == socket.AF_INET6 else IPv4Protocol()
    ip.addProto(TCP, tcp)
    try:
        ip.datagramReceived(octets, 0, None, None, None)
    except BadDatagram as why:
        _log.warn("a connection is dropped: its saved SYN cannot be read: {reason}", reason=str(why))
    return heard.isn


@implementer(ISegmentProtocol)
class _Heard:
    """The ISN of the SYN that came up the stack."""

    isn: int | None = None

    def segmentReceived(self, segment: Segment, source: str, dest: str) -> None:
        if segment.opens:
            self.isn = segment.seq
