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
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from itertools import chain

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from torknock.interfaces import CannotKnock, Dialled, IPrivilegedDialer, Slipped
from torknock.kernel.capability import NO_CAPABILITY
from torknock.kernel.interfaces import IReactor
from torknock.kernel.ipv6 import NO_IPV6
from torknock.kernel.socket_options import (
    TCP_QUEUE_SEQ,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WP,
    TCP_REPAIR_ON,
    TCP_REPAIR_QUEUE,
    TCP_SEND_QUEUE,
)
from torknock.privileged.dial.connecting import Waiting
from torknock.privileged.dial.ports import Ports, local_ports
from torknock.privileged.dial.timestamp import Foresight, Stamp
from torknock.privileged.dial.tuples import SAME_TUPLE_AFTER, Name, NoneFree, Pair, Tuples

_REHEARSALS = 16
"""Ports of the kernel's walk that are looked at for one that was never used, before another is drawn."""

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h


@implementer(IPrivilegedDialer)
class RepairDialer:
    """Dials in this process. *bind_v4* and *bind_v6* are the addresses to dial from, but for targets on loopback.

    *dialled* remembers the 4-tuples, also for other users who dial from here; *user* is the uid for which it dials.
    """

    def __init__(
        self,
        reactor: IReactor,
        bind_v4: str | None = None,
        bind_v6: str | None = None,
        dialled: Tuples | None = None,
        user: int = 0,
    ) -> None:
        self._reactor = reactor
        self._bind = {4: bind_v4, 6: bind_v6}
        self._dialled = Tuples() if dialled is None else dialled
        self._user = user

    def open_socket(self, family: socket.AddressFamily) -> socket.socket:
        """A TCP socket, which the kernel repairs for this process; tests have one whose repair is in memory."""
        return socket.socket(family, socket.SOCK_STREAM)

    def ready(self) -> Deferred[None]:
        """See `IPrivilegedDialer.ready`. Nothing else is needed than the capability."""
        return succeed(None)

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        """See `IDialer.dial`. The kernel chooses the source port as it does for every `connect`."""
        if not 1 <= isn < 2**32:
            raise ValueError("an ISN is 1..2**32-1; 0 lets the kernel choose")
        return self._dial(host, port, lambda *_: (isn, None)).addCallback(lambda dialled: dialled.socket)

    def dial_stamped(self, host: str, port: int, isn: Callable[[int], int]) -> Deferred[Dialled]:
        """See `IStampedDialer.dial_stamped`. Stops the reactor for up to 4 ms before the SYN leaves."""

        def stamped(source: Name, target: Name) -> tuple[int, Stamp]:
            with closing(Foresight(source, target, self.open_socket)) as foresight:
                return isn(foresight.tsval), foresight.reached()

        return self._dial(host, port, stamped)

    def _dial(
        self, host: str, port: int, choose: Callable[[Name, Name], tuple[int, Stamp | None]]
    ) -> Deferred[Dialled]:
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
        return connected.addCallback(Dialled, isn, 0 if stamp is None else stamp.tsval)

    def _prepared(self, target: Name, bind: Name | None) -> socket.socket:
        """A socket to be given an ISN, bound to an address and port that the kernel would choose for *target*."""
        with ExitStack() as rehearsals:
            pair = self._rehearsed(rehearsals, target, bind)
            if _stays_here(pair):  # its ISN does not leave this host
                return self._bound(pair)
            if pair not in self._dialled:
                self._dialled.take(pair, self._reactor.seconds(), self._user)
                return self._bound(pair)
        return self._drawn(pair, self._reactor.seconds())

    def _rehearsed(self, rehearsals: ExitStack, target: Name, bind: Name | None) -> Pair:
        """The first pair of the kernel's walk that was never dialled; one that was, if none is among its next ones.

        In repair mode `connect` chooses as ever and sends nothing. What *rehearsals* holds is not chosen again.
        """
        seen: list[Pair] = []
        while len(seen) < _REHEARSALS:
            try:
                rehearsal = rehearsals.enter_context(self._socket(target))
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
        return seen[-1]

    def _drawn(self, used: Pair, now: float) -> socket.socket:
        """As `_prepared`, with another source port than *used*: one that was never dialled, or not for longest.

        No other socket has it. Raises `NoneFree` if there is none.
        """
        source, target = used
        ports, dialled = local_ports(), self._dialled.ports(used)
        never = (port for port in ports.drawn(like=source[1]) if port not in dialled)
        longest = (port for port, at in dialled.items() if now - at >= SAME_TUPLE_AFTER and port in ports)
        drawn = self._socket(target, repair=False)
        try:
            for port in chain(never, longest):
                pair = (source[0], port, *source[2:]), target
                if _bind(drawn, pair[0]):
                    self._dialled.take(pair, now, self._user)
                    return _prepare(drawn)
        except BaseException:
            drawn.close()
            raise
        drawn.close()
        raise _none_free(ports, dialled, now)

    def _socket(self, target: Name, repair: bool = True) -> socket.socket:
        """A non-blocking socket of the family of *target*, in repair mode or not."""
        made = self.open_socket(socket.AF_INET if len(target) == 2 else socket.AF_INET6)
        try:
            made.setblocking(False)
            if repair:
                made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
        except OSError:
            made.close()
            raise
        return made

    def _bound(self, pair: Pair) -> socket.socket:
        """A socket in repair mode, bound to the source of *pair*, whose send queue waits for its sequence number."""
        source, target = pair
        knocking = self._socket(target)
        try:
            knocking.bind(source)  # in repair mode its port may be the rehearsal's, and of connections to elsewhere
            return _prepare(knocking)
        except OSError:
            knocking.close()
            raise


def _none_free(ports: Ports, dialled: Mapping[int, float], now: float) -> NoneFree:
    """What is true when none of *ports* can be had; *dialled* are the times of those that were."""
    lately = [at for port, at in dialled.items() if now - at < SAME_TUPLE_AFTER and port in ports]
    what = f"of {len(ports)} source ports {len(lately)} were used for this bridge in the last 5 minutes"
    if held := len(ports) - len(lately):
        what += f", and other sockets hold {held}"
    return NoneFree(errno.EADDRNOTAVAIL, what, min(lately, default=now) + SAME_TUPLE_AFTER - now)


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


def _bind(alone: socket.socket, source: Name) -> bool:
    """Bind a socket that is not in repair mode to *source*; False if another socket has that port, or none may."""
    try:
        alone.bind(source)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return False
        raise
    return True


def _prepare(knocking: socket.socket) -> socket.socket:
    """Have the send queue of *knocking*, which is bound, wait for its sequence number."""
    knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
    knocking.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
    return knocking


def _cannot(error: OSError) -> CannotKnock:
    if error.errno in (errno.EPERM, errno.EACCES):
        text = NO_CAPABILITY
    elif isinstance(error, NoneFree):
        text = f"no knock could leave this host: {error.strerror}"
    elif error.errno == errno.EAFNOSUPPORT:
        text = f"the address to dial is IPv6, and {NO_IPV6}; ask the operator for a line with an IPv4 address"
    else:
        ports = ", and whether its source ports are used up" if error.errno == errno.EADDRNOTAVAIL else ""
        text = f"no knock could leave this host: {error.strerror}; look at its addresses and routes{ports}"
    cannot = CannotKnock(text, error.errno)
    cannot.__cause__ = error
    return cannot


def _connected(reactor: IReactor, knocking: socket.socket, target: Name) -> Deferred[socket.socket]:
    """*knocking*, once the peer has answered. Sends the SYN."""
    status = knocking.connect_ex(target)
    if status not in (0, errno.EINPROGRESS):
        knocking.close()
        return fail(_cannot(OSError(status, os.strerror(status))))
    result: Deferred[socket.socket] = Deferred(lambda _: waiting.close())
    waiting = Waiting(reactor, knocking, result.callback, result.errback)
    return result
