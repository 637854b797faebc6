"""The life of one connection to a bridge: a knock, the channel behind it, and the protocol that relays for tor.

The law: the knocker calls `opened` for each connection that one of its SYNs opened, one at a time. The first one whose
channel opens is the connection: its protocol is connected then, and never before. After any other the knocker goes on.
Cancelling `connect` gives up the SYN that waits, or drops the connection whose channel is being opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer

from torknock.channel.interfaces import ChannelFailed, IClientChannel
from torknock.client.hang_up import HangUpWatch
from torknock.client.knocker import Knocker
from torknock.client.round_errors import WrongPeer
from torknock.client.rounds import Knocked
from torknock.client.stealth import StealthKnocker
from torknock.kernel.interfaces import IReactor
from torknock.protocol.bridge_line import Line


def named(host: str, port: int) -> IPv4Address | IPv6Address:
    """The address of *host*, an IP literal, and *port*."""
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


@dataclass(frozen=True, slots=True)
class Destination:
    """The bridge of a line at an address, and how long a request for it may take."""

    line: Line
    host: str
    """An IP literal."""
    port: int
    deadline: float = inf
    """See `Rounds.run`."""


@implementer(IStreamClientEndpoint)
@define
class BridgeEndpoint:
    """The bridge at a destination, which *knocker* knocks at; *channel* is that of its line."""

    _reactor: IReactor
    _knocker: Knocker | StealthKnocker
    _channel: IClientChannel
    _to: Destination

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`. Fails as the knocker does."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        upper = factory.buildProtocol(named(self._to.host, self._to.port))  # once, however many knocks it takes
        assert upper is not None  # noqa: S101  the factory refuses no connection

        async def opened(knocked: Knocked) -> IProtocol:
            """*upper*, once the channel says that this is the bridge. Raises `WrongPeer` if it is not."""
            line = self._to.line if knocked.epoch is None else self._to.line.forward(knocked.epoch)
            watch = HangUpWatch(upper, knocked.hung_up)
            below = _ChannelFactory(lambda: self._channel.open(line, knocked.isn, self._to.host, watch))
            try:
                with knocked.socket as connected:
                    self._reactor.adoptStreamConnection(connected.fileno(), connected.family, below)
                await below.opened
            except ChannelFailed as error:
                raise WrongPeer(error.reason) from error
            except OSError as error:  # a RST came right behind the SYN-ACK
                raise WrongPeer("it reset the connection at once") from error
            return upper

        to = self._to
        return await self._knocker.knock(to.line, to.host, to.port, opened, to.deadline)


class _ChannelFactory(Factory):
    """Gives a TCP connection that stands its channel; *opened* see `IClientChannel.open`."""

    noisy = False
    opened: Deferred[None]

    def __init__(self, open_channel: Callable[[], tuple[IProtocol, Deferred[None]]]) -> None:
        self._open_channel = open_channel

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:  # type: ignore[override]  # Twisted asks for less
        lower: IProtocol
        lower, self.opened = self._open_channel()
        return lower
