"""A connection whose SYN carries a chosen ISN, by `TCP_REPAIR` (protocol.md §2.4). Needs CAP_NET_ADMIN.

A fresh socket in repair mode takes a sequence number for its send queue. Out of repair mode again, its `connect` sends
an ordinary SYN with that ISN: options, window, TTL, TSval are what the kernel gives every other SYN.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.dial.interfaces import CannotKnock, IDialer, IStampedDialer, Slipped
from torknock.dial.timestamp import Foresight, Stamp
from torknock.dial.tuples import Name, NoneFree, Pair, Tuples
from torknock.linux import (
    NO_CAPABILITY,
    NO_IPV6,
    TCP_QUEUE_SEQ,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WP,
    TCP_REPAIR_ON,
    TCP_REPAIR_QUEUE,
    TCP_SEND_QUEUE,
)

_REHEARSALS = 16
"""Ports that are tried for one that was never used, before one that was not used lately is taken."""

_DRAWN = 64
"""Ports that are drawn where the kernel's walk goes through ports that were all used lately."""

_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h


@implementer(IDialer, IStampedDialer)
class RepairDialer:
    """Dials in this process. *bind_v4* and *bind_v6* are the addresses to dial from, but for targets on loopback.

    *dialled* remembers the 4-tuples, also for others who dial from here; *user* is the number of who dials.
    """

    def __init__(
        self,
        reactor: Any,
        bind_v4: str | None = None,
        bind_v6: str | None = None,
        dialled: Tuples | None = None,
        user: int = 0,
    ) -> None:
        self._reactor = reactor
        self._bind = {4: bind_v4, 6: bind_v6}
        self._dialled = Tuples() if dialled is None else dialled
        self._user = user

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        """See `IDialer.dial`. The kernel chooses the source port as it does for every `connect`."""
        if not 1 <= isn < 2**32:
            raise ValueError("an ISN is 1..2**32-1; 0 lets the kernel choose")
        return self._dial(host, port, lambda *_: (isn, None))

    def dial_stamped(self, host: str, port: int, isn: Callable[[int], int]) -> Deferred[socket.socket]:
        """See `IStampedDialer.dial_stamped`. Stops the reactor for up to 4 ms before the SYN leaves."""

        def stamped(source: Name, target: Name) -> tuple[int, Stamp]:
            with closing(Foresight(source, target)) as foresight:
                return isn(foresight.tsval), foresight.reached()

        return self._dial(host, port, stamped)

    def _dial(
        self, host: str, port: int, choose: Callable[[Name, Name], tuple[int, Stamp | None]]
    ) -> Deferred[socket.socket]:
        """What *choose* returns for source and target is the ISN, and the TSval that it is for, if for one."""
        try:
            address = _unmapped(ipaddress.ip_address(host))
            bind = None if address.is_loopback else self._bind[address.version]
            target = _name(address, port)
            knocking = self._prepared(target, None if bind is None else _name(ipaddress.ip_address(bind), 0))
        except ValueError:
            return fail(CannotKnock("what to dial, or where from, is not an IP address"))
        except OSError as error:
            return fail(_cannot(error))
        try:
            isn, stamp = choose(knocking.getsockname(), target)
            if not isn:
                raise Slipped(sent=False)
            knocking.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", isn))
            knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
        except (OSError, CannotKnock, Slipped) as error:
            knocking.close()
            return fail(_cannot(error) if isinstance(error, OSError) else error)
        except BaseException:
            knocking.close()
            raise
        connected = _connected(self._reactor, knocking, target)
        if stamp is not None and knocking.fileno() >= 0 and stamp.missed(knocking):
            connected.cancel()
            connected.addErrback(lambda _: fail(Slipped()))
        return connected

    def _prepared(self, target: Name, bind: Name | None) -> socket.socket:
        """A socket to be given an ISN, bound to the address and port that the kernel chooses for *target*.

        The choice is seen in rehearsals: in repair mode `connect` chooses as ever and sends nothing.
        """
        with ExitStack() as rehearsals:
            seen: list[Pair] = []
            while len(seen) < _REHEARSALS:
                try:
                    rehearsal = rehearsals.enter_context(_socket(target))
                    if bind is not None:
                        rehearsal.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                        rehearsal.bind(bind)
                    rehearsal.connect(target)
                except OSError:
                    if not seen:
                        raise
                    break  # there are no other ports
                seen.append((rehearsal.getsockname(), target))
                if seen[-1] not in self._dialled:
                    break
            pair = min(seen, key=self._dialled.last)
            if _stays_here(pair):  # nobody else sees its ISN
                return _bound(pair)
            now = self._reactor.seconds()
            if not self._dialled.is_free(pair, now):
                pair = self._drawn(pair, now)
            self._dialled.take(pair, now, self._user)
            return _bound(pair)

    def _drawn(self, used: Pair, now: float) -> Pair:
        """Another source port than *used*, as the kernel may begin its next walk at; *used* if none is found."""
        source, target = used
        try:
            low, high = map(int, _PORT_RANGE.read_text("ascii").split())
        except (OSError, ValueError):
            return used
        for _ in range(_DRAWN):
            port = low + (source[1] - low) % 2 + 2 * secrets.randbelow((high - low) // 2 + 1)
            pair = (source[0], port, *source[2:]), target
            if port <= high and self._dialled.is_free(pair, now):
                return pair
        return used


def _unmapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 socket would dial; *address* itself if there is none."""
    return getattr(address, "ipv4_mapped", None) or address


def _stays_here(pair: Pair) -> bool:
    """Whether a connection never leaves this host: to loopback, or to the address that it comes from."""
    source, target = pair
    address = ipaddress.ip_address(target[0])
    return address.is_loopback or address.is_unspecified or source[0] == target[0]


def _name(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Name:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address), port
    if address.is_link_local and address.scope_id is None:
        raise OSError(errno.EINVAL, "a link-local address needs its interface, as in fe80::1%eth0")
    scope = 0 if address.scope_id is None else socket.if_nametoindex(address.scope_id)
    return str(address).partition("%")[0], port, 0, scope


def _socket(target: Name) -> socket.socket:
    """A non-blocking socket in repair mode, of the family of *target*."""
    made = socket.socket(socket.AF_INET if len(target) == 2 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
    except OSError:
        made.close()
        raise
    return made


def _bound(pair: Pair) -> socket.socket:
    """A socket in repair mode, bound to the source of *pair*, whose send queue waits for its sequence number."""
    source, target = pair
    knocking = _socket(target)
    try:
        knocking.bind(source)  # in repair mode a port is shared with the rehearsal, and with connections to elsewhere
        knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    except OSError:
        knocking.close()
        raise
    return knocking


def _cannot(error: OSError) -> CannotKnock:
    if error.errno in (errno.EPERM, errno.EACCES):
        text = NO_CAPABILITY
    elif isinstance(error, NoneFree):
        text = f"no knock could leave this host: {error.strerror}; try again in a few minutes"
    elif error.errno == errno.EAFNOSUPPORT:
        text = f"the address to dial is IPv6, and {NO_IPV6}; ask the operator for a line with an IPv4 address"
    else:
        text = f"no knock could leave this host: {error.strerror}; look at its addresses and routes"
    cannot = CannotKnock(text, error.errno)
    cannot.__cause__ = error
    return cannot


def _connected(reactor: Any, knocking: socket.socket, target: Name) -> Deferred[socket.socket]:
    """*knocking*, once the peer has answered. Sends the SYN."""
    status = knocking.connect_ex(target)
    if status not in (0, errno.EINPROGRESS):
        knocking.close()
        return fail(_cannot(OSError(status, os.strerror(status))))
    result: Deferred[socket.socket] = Deferred(lambda _: waiting.close())
    waiting = _Waiting(reactor, knocking, result.callback, result.errback)
    return result


@implementer(IReadWriteDescriptor)
class _Waiting:
    """A socket that waits for the answer to its SYN.

    It also waits for input: a reactor tells a reader of a refusal, where a mere writer is told that it is lost.
    """

    def __init__(
        self,
        reactor: Any,
        knocking: socket.socket,
        connected: Callable[[socket.socket], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._reactor = reactor
        self._socket = knocking
        self._connected = connected
        self._failed = failed
        self._over = False
        reactor.addReader(self)
        reactor.addWriter(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "knock"

    def doRead(self) -> None:
        self._answered(0)

    def doWrite(self) -> None:
        self._answered(0)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives the socket up."""
        self._answered(errno.ECONNABORTED)

    def close(self) -> None:
        """Nobody waits any more."""
        self._leave()
        self._socket.close()

    def _answered(self, otherwise: int) -> None:
        if self._over:  # one turn of the reactor may call for both input and output
            return
        self._leave()
        status = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or otherwise
        if status == 0:
            self._connected(self._socket)
        else:
            self._socket.close()
            self._failed(getConnectError((status, os.strerror(status))))

    def _leave(self) -> None:
        self._over = True
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
