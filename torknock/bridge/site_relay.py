"""A client's connection, joined octet by octet with the web server of the site (protocol.md §3a)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from pluggable.relay import READ_SIZE, Half, Single, join
from torknock.bridge.site_certificate import connect, unreachable
from torknock.kernel.interfaces import IReactor
from torknock.kernel.places import PLAIN_SOCKET, SITE_SOCKET

_BUSY_FOR = 3.0
"""Seconds for which a web server whose queue of connections is full is tried again."""

_PAUSE = 0.05


def proxy_header(client: Any, server: Any) -> bytes:
    """The PROXY protocol header, version 1, for a connection from *client* to *server*, addresses of Twisted's."""
    family = "TCP6" if ip_address(client.host).version == 6 else "TCP4"
    return f"PROXY {family} {_plain(client.host)} {_plain(server.host)} {client.port} {server.port}\r\n".encode("ascii")


def peer_name(client: Any) -> str:
    """What nginx makes of the header for *client* in `$proxy_protocol_addr:$proxy_protocol_port`."""
    return f"{_plain(client.host)}:{client.port}"


def _plain(host: str) -> str:
    address = ip_address(host)
    return str(IPv6Address(int(address))) if address.version == 6 else host


class _Resetting(Half):
    """A link that passes a reset on, and asks TCP for nothing that a web server does not ask it for."""

    def connectionMade(self) -> None:
        """As `Half.connectionMade`, without keep-alive: a web server sets none, and a stranger could see it."""
        self.transport.setTcpNoDelay(True)
        self.transport.bufferSize = READ_SIZE
        self.opening.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Reset the other link if this one was reset; else close it as usual."""
        peer = self._peer
        if peer is not None and not peer.lost and not reason.check(ConnectionDone):
            peer.transport.unregisterProducer()
            peer.abort()
        super().connectionLost(reason)


class _StrangersLink(Half):
    """The link, out of channel `tls`, of a client without a proof, to what *site* is connected to."""

    def __init__(self, reactor: IReactor, site: socket.socket) -> None:
        super().__init__()
        self._reactor, self._site = reactor, site

    def connectionMade(self) -> None:
        """Join it with the web server's; it ends if that has ended."""
        super().connectionMade()
        other = Half()
        try:
            with self._site as site:
                site.send(proxy_header(self.transport.getPeer(), self.transport.getHost()))  # into an empty buffer
                self._reactor.adoptStreamConnection(site.fileno(), socket.AF_UNIX, Single(other))
        except OSError:  # it has just ended, or there is no descriptor left
            self.transport.loseConnection()
            return
        join(self, other)


def strangers_link(reactor: IReactor, directory: Path) -> Half | None:
    """A link to the web server, behind TLS of the bridge's own; None if it does not listen there."""
    try:
        return _StrangersLink(reactor, connect(directory / PLAIN_SOCKET))
    except OSError:
        return None


class ClientLink(_Resetting):
    """The client's link. *ended* is called when it has ended, *failed* with what is wrong with the site."""

    def __init__(
        self,
        reactor: IReactor,
        directory: Path,
        began: Callable[[str], object],
        ended: Callable[[], object],
        failed: Callable[[str], object],
    ) -> None:
        super().__init__()
        self._reactor, self._site = reactor, directory / SITE_SOCKET
        self._began, self._ended, self._failed = began, ended, failed
        self._gives_up = 0.0

    def connectionMade(self) -> None:
        """Connect to the site before anything is read."""
        super().connectionMade()
        self.transport.pauseProducing()
        self._began(peer_name(self.transport.getPeer()))
        self._gives_up = self._reactor.seconds() + _BUSY_FOR
        self._connect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that it has ended."""
        super().connectionLost(reason)
        self._ended()

    def _connect(self) -> None:
        if self.lost:
            return
        try:
            with connect(self._site) as site:
                site.send(proxy_header(self.transport.getPeer(), self.transport.getHost()))  # into an empty buffer
                other = _Resetting()
                self._reactor.adoptStreamConnection(site.fileno(), socket.AF_UNIX, Single(other))
        except OSError as error:
            if error.errno == errno.EAGAIN and self._reactor.seconds() < self._gives_up:
                self._reactor.callLater(_PAUSE, self._connect)
                return
            self._failed(str(unreachable(self._site, error)))
            self.abort()
            return
        self._failed("")
        join(self, other)
        self.transport.resumeProducing()
