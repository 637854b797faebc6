"""What every dialer does, whether it has the capability itself or asks somebody who has."""

from __future__ import annotations

from socket import socket

from twisted.internet.defer import Deferred
from zope.interface import Interface

from torknock.errors import TorknockError


class CannotKnock(TorknockError):
    """No SYN with a chosen ISN could leave this host, and no other has left; the kernel's error is its cause."""


class IDialer(Interface):
    """Opens TCP connections whose SYN carries a chosen ISN."""

    def dial(host: str, port: int, isn: int) -> Deferred[socket]:
        """A connected, non-blocking socket; *host* is an IP literal, *isn* 1..2**32-1.

        Fails with `CannotKnock` before a SYN has left, else with a `twisted.internet.error.ConnectError`. If it is
        cancelled, the socket is closed.
        """
