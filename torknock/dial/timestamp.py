"""The TSval that the kernel is about to send, on a kernel that tells nobody (knock.md, "TSval").

TSval is a clock of milliseconds and an offset that the kernel keeps secret, another for each 4-tuple. A socket with TCP
Fast Open and no cookie takes both at `connect` and holds its SYN back until there is data, which never comes: it is
asked for its clock, and closed. Nothing leaves the host.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torknock.dial.interfaces import CannotKnock
from torknock.linux import (
    TCP_FASTOPEN_CONNECT,
    TCP_FASTOPEN_NO_COOKIE,
    TCP_REPAIR,
    TCP_REPAIR_OFF_NO_WP,
    TCP_REPAIR_ON,
    TCP_TIMESTAMP,
)

_SYSCTL = Path("/proc/sys/net/ipv4/tcp_timestamps")

NOT_HELD_BACK = (
    "this kernel does not tell which timestamp it will send; set the sysctl net.ipv4.tcp_fastopen to 1, "
    "and net.ipv4.tcp_fastopen_blackhole_timeout_sec to 0"
)


_MILLISECOND = 1_000_000  # ns


@dataclass(frozen=True, slots=True)
class Stamp:
    """The TSval that a SYN has which leaves before the monotonic clock shows *ends_ns*; 0 for none, in SYNs without."""

    tsval: int
    ends_ns: int

    def missed(self, knocking: socket.socket) -> bool:
        """Whether *knocking*, whose SYN has just left, may have sent another TSval."""
        return self.tsval != 0 and (time.monotonic_ns() >= self.ends_ns or clock(knocking) != self.tsval)


def foresee(source: tuple[Any, ...], target: tuple[Any, ...]) -> Stamp:
    """The TSval of a SYN from *source* to *target* that leaves at once.

    *source* and *target* are socket addresses; no socket may be connected with this 4-tuple. Returns right after a
    tick of the clock, so that nearly a millisecond is left, and waits for the tick without the reactor, 2 ms at most.
    Needs CAP_NET_ADMIN. Raises `CannotKnock` if the kernel holds no SYN back, and `OSError`.
    """
    if not stamps():
        return Stamp(0, 0)
    with socket.socket(socket.AF_INET if len(target) == 2 else socket.AF_INET6, socket.SOCK_STREAM) as probe:
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
        seen_ns, first = time.monotonic_ns(), clock(probe)
        while True:
            now_ns, now = time.monotonic_ns(), clock(probe)
            if now != first:  # so the tick came after seen_ns
                return Stamp(now, seen_ns + _MILLISECOND)
            seen_ns = now_ns


def stamps() -> bool:
    """Whether SYNs that leave this network namespace have a timestamp. Raises `OSError`."""
    return _SYSCTL.read_text("ascii").strip() != "0"


def clock(asked: socket.socket) -> int:
    """The TSval that *asked* would send now; since Linux 6.7 its lowest bit is 0, so it ticks every 2 ms."""
    return asked.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP) & 0xFFFFFFFF
