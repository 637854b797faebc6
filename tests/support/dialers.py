"""Dialers for tests."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tests.support.netns import Host
from torknock.interfaces import Dialled, IPrivilegedDialer
from torknock.privileged.dial.repair import RepairDialer

reactor: Any = _reactor


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
