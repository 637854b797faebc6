"""Dialers for tests: one in memory, which needs no privilege, and the real one in a network namespace."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tests.support.netns import Host
from torknock.interfaces import CannotKnock, Dialled, IPrivilegedDialer, Slipped
from torknock.privileged.dial.repair import RepairDialer

reactor: Any = _reactor

SILENCE, ACCEPTS = -1, 0
"""What a port does with a SYN, in place of an errno."""


@implementer(IPrivilegedDialer)
class MemoryDialer:
    """A dialer whose network is a table: what each host and port answers, an errno, `ACCEPTS` or, if none, `SILENCE`.

    A connection is one end of a socket pair; the other is in *accepted*. The TSval is *clock*'s, in milliseconds.
    """

    def __init__(self, clock: IReactorTime, answers: dict[tuple[str, int], int] | None = None) -> None:
        self._clock = clock
        self.answers = answers or {}
        self.syns: list[tuple[str, int, int]] = []
        """Those that left: host, port and ISN."""
        self.accepted: list[socket.socket] = []

    def ready(self) -> Deferred[None]:
        return succeed(None)

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        if not 1 <= isn < 2**32:
            raise ValueError("an ISN is 1..2**32-1; 0 lets the kernel choose")
        return self._dial(host, port, lambda _: isn).addCallback(lambda dialled: dialled.socket)

    def dial_stamped(self, host: str, port: int, isn: Callable[[int], int]) -> Deferred[Dialled]:
        return self._dial(host, port, isn)

    def _dial(self, host: str, port: int, choose: Callable[[int], int]) -> Deferred[Dialled]:
        try:
            ip_address(host)
        except ValueError:
            return fail(CannotKnock("what to dial is not an IP address"))
        tsval = int(self._clock.seconds() * 1000) % 2**32
        isn = choose(tsval)
        if not isn:
            return fail(Slipped(sent=False))
        self.syns.append((host, port, isn))
        answer = self.answers.get((host, port), SILENCE)
        if answer == SILENCE:
            return Deferred()
        if answer != ACCEPTS:
            return fail(getConnectError((answer, os.strerror(answer))))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.accepted.append(theirs)
        return succeed(Dialled(ours, isn, tsval))


@implementer(IPrivilegedDialer)
class DialerOf:
    """A `RepairDialer` in the network namespace of *host*."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._dialer = RepairDialer(reactor)

    def ready(self) -> Deferred[None]:
        return self._dialer.ready()

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        with self._host.enter():
            return self._dialer.dial(host, port, isn)

    def dial_stamped(self, host: str, port: int, isn: Callable[[int], int]) -> Deferred[Dialled]:
        with self._host.enter():
            return self._dialer.dial_stamped(host, port, isn)
