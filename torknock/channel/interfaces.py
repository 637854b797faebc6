"""What every channel does: it runs behind the TCP handshake and carries the service's octets.

A channel's transport is an `ITransport`, `IConsumer` and `IPushProducer` with `abortConnection` and
`loseWriteConnection`; what its upper protocol may expect is what Twisted's TCP transport does, but that
`loseConnection` may let a registered producer go where TCP's would wait for it to finish.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from zope.interface import Interface

from torknock.errors import TorknockError
from torknock.protocol.bridge_line import Line


class ChannelFailed(TorknockError):
    """What answered the knock is not the bridge of the line, or cannot be talked to."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"what answered the knock is not the bridge: {reason}")
        self.reason = reason


class CannotOpen(TorknockError):
    """The host has no means to open the channel now, for this *reason*; what answered is not to blame."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot begin TLS on this host: {reason}", "look for a limit of open files that is too low")


class NotProved(TorknockError):
    """A connection whose client gave no proof that it holds the line; *why* says what happened instead."""

    def __init__(self, why: str) -> None:
        super().__init__(f"connection without a proof: {why}")
        self.why = why


class NotServed(TorknockError):
    """A connection that this host could not carry, for this *reason*, whatever its client holds."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"connection not served: {reason}")


class IClientChannel(Interface):
    """The client's end."""

    def open(line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        """The protocol for a TCP connection to *host*, an IP literal, that a SYN with *isn* has opened.

        The Deferred fires when *upper* has been connected, or fails with `ChannelFailed`; then *upper* never is.
        Cancelling it drops the connection. Raises `CannotOpen`.
        """


class IServerChannel(Interface):
    """The bridge's end."""

    def accept(
        lines: Sequence[Line], isn: int, upper: IProtocol, known_at: Sequence[Collection[str]] = ()
    ) -> tuple[IProtocol, Deferred[int]]:
        """The protocol for a TCP connection that a SYN with *isn* has opened, a token of each of *lines*.

        *known_at* is for each of them the addresses, IP literals, that it was printed with; empty if that is not known.
        The Deferred fires with the index of the line that the client has proved, when *upper* has been connected, or
        fails with `NotProved`; then *upper* never is, and the channel ends the connection when it is time. It fails
        with `NotServed` where the channel itself could not carry the connection, and has said so. A channel in which
        nothing is proved fires at once.
        """
