"""The TSval that the kernel is about to send, on a kernel that does not tell it (knock.md, "TSval").

TSval is a clock of milliseconds and an offset that the kernel keeps secret, another for each 4-tuple. A socket with TCP
Fast Open and no cookie takes both at `connect` and holds its SYN back until there is data, which never comes: it is
asked for its clock, and closed. Nothing leaves the host.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torknock.interfaces import CannotKnock, Slipped
from torknock.kernel.places import SYSCTLS_IPV4
from torknock.kernel.socket_options import (
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WP,
    TCP_REPAIR_ON,
    TCP_TIMESTAMP,
)

NOT_HELD_BACK = (
    "this kernel does not tell which timestamp it will send; set the sysctl net.ipv4.tcp_fastopen to 1, "
    "and net.ipv4.tcp_fastopen_blackhole_timeout_sec to 0"
)


OpenSocket = Callable[[socket.AddressFamily], socket.socket]

AHEAD_MS = 4
"""How far the foreseen TSval is ahead: time to ask another process for its ISN."""

_WATCHED_MS = 2
"""So long before the tick the clock is watched: a busy host preempts a process that does so for the whole time."""

_MILLISECOND = 1_000_000  # ns


@dataclass(frozen=True, slots=True)
class Stamp:
    """The TSval that a SYN has which leaves before the monotonic clock shows *ends_ns*; 0 for none, in SYNs without."""

    tsval: int
    ends_ns: int

    def missed(self, knocking: socket.socket) -> bool:
        """Whether *knocking*, whose SYN has just left, may have sent another TSval."""
        return self.tsval != 0 and (time.monotonic_ns() >= self.ends_ns or clock(knocking) != self.tsval)


class Foresight:
    """The clock that the SYNs from *source* to *target* will have: the TSval of one that leaves in a moment.

    *source* and *target* are socket addresses; no socket may be connected with this 4-tuple, before `close`.
    *open_socket* makes a TCP socket of a family that may be repaired. Raises `CannotKnock` if the kernel holds no SYN
    back, and `OSError`.
    """

    def __init__(self, source: tuple[Any, ...], target: tuple[Any, ...], open_socket: OpenSocket) -> None:
        self._probe = _held_back(source, target, open_socket) if stamps() else None
        self.tsval = 0 if self._probe is None else (clock(self._probe) + AHEAD_MS) & 0xFFFFFFFF
        """The one to choose an ISN for, within 2 ms; 0 if SYNs have none."""

    def reached(self) -> Stamp:
        """Return when a SYN will have that TSval: right after a tick of the clock, so that nearly 1 ms is left.

        Waits for the tick without the reactor, `AHEAD_MS` at most. Raises `Slipped` if it was over before.
        """
        if self._probe is None:
            return Stamp(0, 0)
        if (ms := self._to_go(self._probe) - _WATCHED_MS) > 0:
            time.sleep(ms / 1000)  # noqa: TID251  as the docstring says
        seen_ns, to_go = time.monotonic_ns(), self._to_go(self._probe)
        while to_go > 0:
            before_ns, to_go = time.monotonic_ns(), self._to_go(self._probe)
            if to_go > 0:
                seen_ns = before_ns
            elif to_go == 0:  # so the tick came after seen_ns
                return Stamp(self.tsval, seen_ns + _MILLISECOND)
        raise Slipped(sent=False)

    def close(self) -> None:
        """Let go of the 4-tuple."""
        if self._probe is not None:
            self._probe.close()

    def _to_go(self, probe: socket.socket) -> int:
        return (self.tsval - clock(probe) + 2**31) % 2**32 - 2**31


def _held_back(source: tuple[Any, ...], target: tuple[Any, ...], open_socket: OpenSocket) -> socket.socket:
    """A socket whose SYN waits for data."""
    probe = open_socket(socket.AF_INET if len(target) == 2 else socket.AF_INET6)
    try:
        probe.setblocking(False)
        probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)  # a port is shared with who is bound to it
        probe.bind(source)
        probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            probe.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        except OSError as error:
            raise CannotKnock(NOT_HELD_BACK, error.errno) from error
        status = probe.connect_ex(target)
        if status == errno.EINPROGRESS:
            raise CannotKnock(NOT_HELD_BACK)
        if status:
            raise OSError(status, os.strerror(status))
    except BaseException:
        probe.close()
        raise
    return probe


def stamps() -> bool:
    """Whether SYNs that leave this network namespace have a timestamp. Raises `OSError`."""
    return (SYSCTLS_IPV4 / "tcp_timestamps").read_text("ascii").strip() != "0"


def clock(asked: socket.socket) -> int:
    """The TSval that *asked* would send now; since Linux 6.7 its lowest bit is 0, so it ticks every 2 ms."""
    return asked.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP) & 0xFFFFFFFF
