"""The life of one connection to a bridge: a knock, the channel behind it, and the protocol that relays for tor.

The law: the knocker calls `opened` for each connection that one of its SYNs opened, one at a time. The first one whose
channel opens is the connection: its protocol is connected then, and never before. After any other the knocker goes on.
Cancelling `connect` gives up the SYN that waits, or drops the connection whose channel is being opened.
"""

from __future__ import annotations

from collections.abc import Callable
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


@implementer(IStreamClientEndpoint)
@define
class BridgeEndpoint:
    """The bridge of *line* at *host*, an IP literal, and *port*; *deadline* see `Rounds.run`."""

    _reactor: IReactor
    _knocker: Knocker | StealthKnocker
    _channel: IClientChannel
    _line: Line
    _host: str
    _port: int
    _deadline: float = inf

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`. Fails as the knocker does."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        upper = factory.buildProtocol(named(self._host, self._port))  # once, however many knocks it takes
        assert upper is not None  # noqa: S101  the factory refuses no connection

        async def opened(knocked: Knocked) -> IProtocol:
            """*upper*, once the channel says that this is the bridge. Raises `WrongPeer` if it is not."""
            line = self._line if knocked.epoch is None else self._line.forward(knocked.epoch)
            watch = HangUpWatch(upper, knocked.hung_up)
            below = _ChannelFactory(lambda: self._channel.open(line, knocked.isn, self._host, watch))
            try:
                with knocked.socket as connected:
                    self._reactor.adoptStreamConnection(connected.fileno(), connected.family, below)
                await below.opened
            except ChannelFailed as error:
                raise WrongPeer(error.reason) from error
            except OSError as error:  # a RST came right behind the SYN-ACK
                raise WrongPeer("it reset the connection at once") from error
            return upper

        return await self._knocker.knock(self._line, self._host, self._port, opened, self._deadline)


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
