"""What needs privilege, on one page: the gate and the dialer, and what can go wrong with each.

Each has several implementations: in the process itself, by a privileged service, or, for a gate, without privilege.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from socket import socket

from twisted.internet.defer import Deferred
from zope.interface import Interface

from torknock.errors import TorknockError


class GateFailed(TorknockError):
    """The gate could not be made what it should be. A port without a gate is closed."""


class DoorTaken(GateFailed):
    """Another process guards this door."""


class IGate(Interface):
    """Who gets past the SYN. Calls are made one after the other; each may fail with `GateFailed`."""

    def open(judging: bool) -> Deferred[None]:
        """Stand at the door with no token admitted, whatever stood there before.

        With *judging* a SYN without a token is asked about, one by one.
        """

    def admit(tokens: Collection[int], seconds: int) -> Deferred[None]:
        """Let each of *tokens* open one connection within *seconds*."""

    def withdraw(tokens: Collection[int]) -> Deferred[None]:
        """Let none of *tokens* open a connection any more, whether it did before or not."""

    def intact() -> Deferred[bool]:
        """Whether the gate still is what `open` made, or somebody changed or removed it."""

    def refused() -> Deferred[int | None]:
        """About how many SYNs without a token came since `open`; None if nobody counts them.

        A gate may count some of them, picked by chance, and multiply.
        """

    def close() -> Deferred[None]:
        """Leave the door: no token opens it, and nothing of the gate remains but what its posture needs.

        A port that was filtered stays silent.
        """


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
        super().__init__("the SYN left too late for the timestamp that was foreseen", "this host may be very busy")
        self.sent = sent


class IDialer(Interface):
    """Opens TCP connections whose SYN carries a chosen ISN."""

    def dial(host: str, port: int, isn: int) -> Deferred[socket]:
        """A connected, non-blocking socket; *host* is an IP literal, *isn* 1..2**32-1 (else `ValueError`).

        Fails with `CannotKnock` if no SYN has left, else with a `twisted.internet.error.ConnectError` that has the
        errno as `osError`: `ConnectionRefusedError` after a RST, `TCPTimedOutError`, ... Cancelling closes the socket.
        """


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection that a SYN with a chosen ISN has opened: its socket, which does not block, and its SYN's numbers."""

    socket: socket
    isn: int
    tsval: int
    """The TSval for which the ISN was chosen; 0 if the SYN had none."""


class IStampedDialer(Interface):
    """Opens TCP connections whose SYN carries an ISN that depends on its TSval (knock.md)."""

    def dial_stamped(host: str, port: int, isn: Callable[[int], int]) -> Deferred[Dialled]:
        """As `IDialer.dial`, with the ISN that *isn* returns for the TSval of the SYN, 0 if it has none.

        *isn* is called once at most. Fails with `Slipped` if the SYN did not leave in time, and if its ISN would be 0.
        """


class IPrivilegedDialer(IDialer, IStampedDialer):
    """A dialer for both schemes, in this process or by a service."""

    def ready() -> Deferred[None]:
        """Fails with `CannotKnock` if nothing can be dialled here now."""
