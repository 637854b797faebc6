"""Which local user owns a TCP connection, from the kernel (sock_diag(7), linux/inet_diag.h).

Every local user can reach a SOCKS port on loopback, and a transport would connect for each of them as it does for tor.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pluggable.errors import MethodError

Address = tuple[str, int]
"""An IP literal and a port."""

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, linux/netlink.h
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY, linux/sock_diag.h
_NLM_F_REQUEST = 1  # linux/netlink.h
_NO_COOKIE = 0xFFFFFFFF  # INET_DIAG_NOCOOKIE, linux/inet_diag.h
_LISTEN = 10  # TCP_LISTEN, net/tcp_states.h
_EVERY_STATE = 0xFFFFFFFF

_NLMSG = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2, up to its id
_ANSWER = struct.Struct("=BBBB")  # struct inet_diag_msg, up to its id
_ID = struct.Struct("!HH16s16s")  # struct inet_diag_sockid, up to its interface
_REST_OF_ID = struct.Struct("=III")
_OWNER = struct.Struct("=IIIII")  # the end of struct inet_diag_msg: expires, queues, uid, inode

_WARNING_INTERVAL = 60.0
"""Seconds without a further warning."""


class ConnectionOwners:
    """Asks the kernel for the owner of one connection at a time; it takes microseconds.

    Raises `OSError` where the kernel cannot be asked.
    """

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._netlink.setblocking(False)  # the kernel has answered when `send` returns
        self._asked = 0

    def owner(self, end: Address, other: Address) -> int | None:
        """The uid of the process that has the end *end* of the TCP connection with *other*; None without a process.

        A connection that was closed, and one that no process has accepted yet, have none. Raises `OSError` if the
        kernel does not answer.
        """
        found = self._ask(end, other)
        if found is None:
            return None
        state, known_end, known_other, uid, inode = found
        # Where no connection is, the kernel looks for a listener; a socket without a process has uid 0.
        is_this = (known_end, known_other) == (_unmapped(end), _unmapped(other))
        return uid if inode and state != _LISTEN and is_this else None

    def check(self) -> None:
        """Ask for a listener of this process. Raises `OSError` if the kernel does not answer, or wrongly."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            found = self._ask(listening.getsockname(), ("0.0.0.0", 0))  # noqa: S104  no address, not bound
        if found is None or found[0] != _LISTEN or found[3] != os.geteuid():
            raise OSError("sock_diag does not show this process' own sockets")

    def close(self) -> None:
        """Close the socket to the kernel."""
        self._netlink.close()

    def _ask(self, end: Address, other: Address) -> tuple[int, Any, Any, int, int] | None:
        """State, both ends, uid and inode of the socket at *end*; None if there is no such socket."""
        here, there = ip_address(end[0]), ip_address(other[0])
        family = socket.AF_INET if here.version == 4 else socket.AF_INET6
        question = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _EVERY_STATE)
        question += _ID.pack(end[1], other[1], _padded(here), _padded(there))
        question += _REST_OF_ID.pack(0, _NO_COOKIE, _NO_COOKIE)
        self._asked = (self._asked + 1) & 0xFFFFFFFF
        length = _NLMSG.size + len(question)
        self._netlink.send(_NLMSG.pack(length, _BY_FAMILY, _NLM_F_REQUEST, self._asked, 0) + question)
        while True:
            answer = self._netlink.recv(4096)
            if _NLMSG.unpack_from(answer)[3] == self._asked:
                return _read(answer)


def _read(answer: bytes) -> tuple[int, Any, Any, int, int] | None:
    _length, kind, *_ = _NLMSG.unpack_from(answer)
    if kind != _BY_FAMILY:
        code = -struct.unpack_from("=i", answer, _NLMSG.size)[0]
        if code == 2:  # ENOENT: there is no such socket
            return None
        raise OSError(code, os.strerror(code))
    at = _NLMSG.size
    family, state, _timer, _retransmissions = _ANSWER.unpack_from(answer, at)
    at += _ANSWER.size
    port, other_port, here, there = _ID.unpack_from(answer, at)
    at += _ID.size + _REST_OF_ID.size
    *_, uid, inode = _OWNER.unpack_from(answer, at)
    size = 4 if family == socket.AF_INET else 16
    end, other = ((str(ip_address(each[:size])), number) for each, number in ((here, port), (there, other_port)))
    return state, _unmapped(end), _unmapped(other), uid, inode


def _padded(address: IPv4Address | IPv6Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _unmapped(address: Address) -> tuple[IPv4Address | IPv6Address, int]:
    """*address*, in which an IPv4-mapped IPv6 address is IPv4 (RFC 4291 §2.5.5.2)."""
    host = ip_address(address[0])
    return (host.ipv4_mapped or host if isinstance(host, IPv6Address) else host), address[1]


class LocalUsers:
    """Which users may connect to a port on loopback: this process' own, root, and those of the uids *others*.

    *warn* is called, at most once a minute, with the reason of a refusal; *clock* measures the minute. Raises
    `MethodError` where the kernel does not tell the owner of a connection.
    """

    def __init__(self, clock: Any, others: Collection[int], warn: Callable[[str], object]) -> None:
        self._clock, self._warn = clock, warn
        self._uids = frozenset({os.geteuid(), 0, *others})
        self._quiet_until, self._suppressed = 0.0, 0
        try:
            self._owners = ConnectionOwners()
            self._owners.check()
        except OSError as error:
            raise MethodError(
                f"cannot tell which user connects to the SOCKS port ({error.strerror or error}): allow this process "
                "netlink sockets (AF_NETLINK, sock_diag) in its sandbox, and load the kernel module tcp_diag"
            ) from error

    def may_connect(self, peer: Any, here: Any) -> bool:
        """Whether to serve the TCP connection from *peer* to *here*, two addresses of Twisted's."""
        try:
            owner = self._owners.owner((peer.host, peer.port), (here.host, here.port))
        except (OSError, AttributeError, ValueError) as error:
            self._refused(f"the kernel does not tell its owner: {getattr(error, 'strerror', None) or 'no address'}")
            return False
        if owner in self._uids:
            return True
        self._refused("its process has gone" if owner is None else f"its owner is another user, uid {owner}")
        return False

    def close(self) -> None:
        """Ask the kernel no more."""
        self._owners.close()

    def _refused(self, reason: str) -> None:
        if self._clock.seconds() < self._quiet_until:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} more since the last such line)" if self._suppressed else ""
        self._quiet_until, self._suppressed = self._clock.seconds() + _WARNING_INTERVAL, 0
        self._warn(f"connection to the SOCKS port refused: {reason}{more}")
