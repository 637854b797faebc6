"""What every dialer does, whether it has the capability itself or asks somebody who has."""

from __future__ import annotations

from collections.abc import Callable
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


class Slipped(TorknockError):
    """The SYN was too late for the TSval that its ISN was made for; another is to be tried at once.

    *sent* says whether it may have left, with another TSval.
    """

    def __init__(self, sent: bool = True) -> None:
        super().__init__("the SYN left too late for the timestamp that was foreseen; this host may be very busy")
        self.sent = sent


class IDialer(Interface):
    """Opens TCP connections whose SYN carries a chosen ISN."""

    def dial(host: str, port: int, isn: int) -> Deferred[socket]:
        """A connected, non-blocking socket; *host* is an IP literal, *isn* 1..2**32-1 (else `ValueError`).

        Fails with `CannotKnock` if no SYN has left, else with a `twisted.internet.error.ConnectError` that has the
        errno as `osError`: `ConnectionRefusedError` after a RST, `TCPTimedOutError`, ... Cancelling closes the socket.
        """


class IStampedDialer(Interface):
    """Opens TCP connections whose SYN carries an ISN that depends on its TSval (knock.md)."""

    def dial_stamped(host: str, port: int, isn: Callable[[int], int]) -> Deferred[socket]:
        """As `IDialer.dial`, with the ISN that *isn* returns for the TSval of the SYN, 0 if it has none.

        Fails with `Slipped` if the SYN did not leave in time, and if its ISN would be 0, too.
        """
