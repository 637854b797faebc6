"""What needs privilege, on one page: the gate and the dialer, and what can go wrong with each.

Each has several implementations: in the process itself, by a privileged service, or, for a gate, without privilege.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import Interface

from torknock.errors import TorknockError

if TYPE_CHECKING:  # the privileged services load no more than they use
    from torknock.protocol.wanted import Wanted


class GateFailed(TorknockError):
    """The gate could not be made what it should be. A port without a gate is closed."""


class DoorTaken(GateFailed):
    """Another process guards this door."""


class IGate(Interface):
    """Lets in who has a token, at one door. Calls are made one after the other; each may fail with `GateFailed`."""

    def apply(wanted: Wanted) -> Deferred[None]:
        """Let in what is *wanted* and has not run out, and nothing else, whatever stood at the door before.

        The first call opens the gate; in which order it is changed, and what of it must be repaired because another
        program has changed it, is the gate's own business. If it fails, how far it came is not known: `close` it.
        """

    def refused() -> Deferred[int | None]:
        """About how many SYNs without a token came since the gate was opened or repaired; None if they are not counted.

        A gate may count some of them, picked by chance, and multiply.
        """

    def held() -> Deferred[int | None]:
        """How many tokens the kernel admits now; None if it cannot be told, as while the gate is closed.

        It takes half a second for 100,000, in a thread.
        """

    def close() -> Deferred[None]:
        """Leave the door: no token opens it, and nothing of the gate remains but what its posture needs.

        A port that was filtered stays silent. May be called again.
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
