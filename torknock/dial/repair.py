"""A connection whose SYN carries a chosen ISN, by `TCP_REPAIR` (protocol.md §2.4). Needs CAP_NET_ADMIN.

A fresh socket in repair mode takes a sequence number for its send queue. Out of repair mode again, its `connect` sends
an ordinary SYN with that ISN: options, window, TTL, TSval are what the kernel gives every other SYN.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.dial.interfaces import CannotKnock, IDialer
from torknock.linux import (
    NO_CAPABILITY,
    TCP_QUEUE_SEQ,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WP,
    TCP_REPAIR_ON,
    TCP_REPAIR_QUEUE,
    TCP_SEND_QUEUE,
)

SAME_TUPLE_AFTER = 300.0
"""Seconds in which no 4-tuple comes twice: for 274 Linux's own ISNs of one would tell that ours are not its own."""

_REHEARSALS = 16

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h

_Name = tuple[Any, ...]
"""A socket address as `getsockname` gives it."""


@implementer(IDialer)
class RepairDialer:
    """Dials in this process. *bind_v4* and *bind_v6* are the addresses to dial from, but for targets on loopback."""

    def __init__(self, reactor: Any, bind_v4: str | None = None, bind_v6: str | None = None) -> None:
        self._reactor = reactor
        self._bind = {socket.AF_INET: bind_v4, socket.AF_INET6: bind_v6}
        self._used: dict[tuple[_Name, tuple[str, int]], float] = {}

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        """See `IDialer.dial`. The kernel chooses the source port as it does for every `connect`."""
        if not 1 <= isn < 2**32:
            raise ValueError("an ISN is 1..2**32-1; 0 lets the kernel choose")
        target = ipaddress.ip_address(host)
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        bind = None if target.is_loopback else self._bind[family]
        try:
            source = self._rehearsed(family, bind, (host, port))
            knocking = _with_isn(family, source, isn)
        except OSError as error:
            return fail(_cannot(error))
        return _connected(self._reactor, knocking, (host, port))

    def _rehearsed(self, family: socket.AddressFamily, bind: str | None, target: tuple[str, int]) -> _Name:
        """The source address and port that the kernel chooses for a connection to *target*, not used lately.

        In repair mode `connect` chooses as ever and sends nothing.
        """
        now = self._reactor.seconds()
        for used in [used for used, when in self._used.items() if now - when > SAME_TUPLE_AFTER]:
            del self._used[used]
        rejected: list[socket.socket] = []
        try:
            for _ in range(_REHEARSALS):
                rehearsal = socket.socket(family, socket.SOCK_STREAM)
                rejected.append(rehearsal)
                if bind is not None:
                    rehearsal.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                    rehearsal.bind((bind, 0))
                rehearsal.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
                rehearsal.connect(target)
                source: _Name = rehearsal.getsockname()
                if (source, target) not in self._used:
                    self._used[source, target] = now
                    return source
        finally:
            for rehearsal in rejected:
                rehearsal.close()
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _with_isn(family: socket.AddressFamily, source: _Name, isn: int) -> socket.socket:
    """A socket bound to *source* whose SYN will carry *isn*."""
    knocking = socket.socket(family, socket.SOCK_STREAM)
    try:
        knocking.setblocking(False)
        # A socket in repair mode may share its port with connections to elsewhere, as one that is not bound may.
        knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
        knocking.bind(source)
        knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
        knocking.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", isn))
        knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
    except BaseException:
        knocking.close()
        raise
    return knocking


def _cannot(error: OSError) -> CannotKnock:
    if error.errno in (errno.EPERM, errno.EACCES):
        text = NO_CAPABILITY
    else:
        text = f"no knock could leave this host: {error.strerror}; look at its addresses and routes"
    cannot = CannotKnock(text)
    cannot.__cause__ = error
    return cannot


def _connected(reactor: Any, knocking: socket.socket, target: tuple[str, int]) -> Deferred[socket.socket]:
    """*knocking*, once the peer has answered. Sends the SYN."""
    result: Deferred[socket.socket] = Deferred(lambda _: connecting.abandon())
    connecting = _Connecting(reactor, knocking, result)
    status = knocking.connect_ex(target)
    if status == errno.EINPROGRESS:
        reactor.addWriter(connecting)
    else:
        connecting.answered(status)
    return result


@implementer(IWriteDescriptor)
class _Connecting:
    """A socket that waits for its SYN-ACK."""

    def __init__(self, reactor: Any, knocking: socket.socket, result: Deferred[socket.socket]) -> None:
        self._reactor = reactor
        self._socket = knocking
        self._result = result

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "knock"

    def doWrite(self) -> None:
        self._reactor.removeWriter(self)
        self.answered(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has seen the socket hang up, as one does whose SYN was refused."""
        self.answered(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET)

    def answered(self, status: int) -> None:
        """The SYN was answered, or given up: *status* is 0 or an errno."""
        if status == 0:
            self._result.callback(self._socket)
        else:
            self._socket.close()
            self._result.errback(getConnectError((status, os.strerror(status))))

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._reactor.removeWriter(self)
        self._socket.close()
