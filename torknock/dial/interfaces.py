"""What every dialer does, whether it has the capability itself or asks somebody who has."""

from __future__ import annotations

from socket import socket

from twisted.internet.defer import Deferred
from zope.interface import Interface

from torknock.errors import TorknockError


class CannotKnock(TorknockError):
    """No SYN with the chosen ISN could leave this host, and no other has left: the token is as good as before."""

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.number = number
        """What the kernel said, an errno; None if it was not asked."""


class IDialer(Interface):
    """Opens TCP connections whose SYN carries a chosen ISN."""

    def dial(host: str, port: int, isn: int) -> Deferred[socket]:
        """A connected, non-blocking socket; *host* is an IP literal, *isn* 1..2**32-1 (else `ValueError`).

        Fails with `CannotKnock` if no SYN has left, else with a `twisted.internet.error.ConnectError` that has the
        errno as `osError`: `ConnectionRefusedError` after a RST, `TCPTimedOutError`, ... Cancelling closes the socket.
        """
