"""The ways to hidden bridges: for a line and an address an endpoint, which knocks and opens the channel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from secrets import SystemRandom
from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer

from torknock.channel.interfaces import ChannelFailed, IClientChannel
from torknock.channel.raw import Raw
from torknock.channel.tls import ClientTLS
from torknock.client.deferred_dial import FirstOctets
from torknock.client.hang_up import Heard
from torknock.client.knocker import Knocker
from torknock.client.memory import Memory
from torknock.client.rounds import Knocked, WrongPeer
from torknock.client.stealth import StealthKnocker
from torknock.interfaces import IPrivilegedDialer
from torknock.protocol.bridge_line import Channel, Line, Scheme


class Bridges:
    """Whoever is asked for by a line, reached through *dialer*."""

    def __init__(
        self, dialer: IPrivilegedDialer, reactor: Any, now: Callable[[], float], chance: SystemRandom, memory: Memory
    ) -> None:
        self._reactor = reactor
        self._knocker = Knocker(dialer, reactor, now, chance, memory)
        self._stealth_knocker = StealthKnocker(dialer, reactor, chance)
        self._channels: dict[Channel, IClientChannel] = {Channel.TLS: ClientTLS(reactor, chance), Channel.RAW: Raw()}

    def endpoint(self, line: Line, host: str, port: int) -> IStreamClientEndpoint:
        """The bridge of *line* at *host*, an IP literal, and *port*.

        `connect` fails as `Knocker.knock` and `StealthKnocker.knock` do. With a line that has `integrity` it fires
        before anything is dialled, and what fails later is the reason for which the protocol loses it.
        """
        channel = self._channels[line.channel]
        if line.scheme is Scheme.TOKEN:
            return _Bridge(self._reactor, self._knocker, channel, line, host, port)
        if not line.integrity:
            return _Bridge(self._reactor, self._stealth_knocker, channel, line, host, port)

        def dialled(payload: bytes) -> IStreamClientEndpoint:
            return _Bridge(self._reactor, self._stealth_knocker.covering(payload), channel, line, host, port)

        return FirstOctets(line.integrity, _named(host, port), dialled)

    def minutes_slow(self, line: Line, host: str, port: int) -> int:
        """See `Knocker.minutes_slow`; 0 for a line whose scheme has no clock."""
        return self._knocker.minutes_slow(line, host, port) if line.scheme is Scheme.TOKEN else 0


@implementer(IStreamClientEndpoint)
@define
class _Bridge:
    _reactor: Any
    _knocker: Knocker | StealthKnocker
    _channel: IClientChannel
    _line: Line
    _host: str
    _port: int

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        upper = factory.buildProtocol(_named(self._host, self._port))  # once, however many knocks it takes
        assert upper is not None  # noqa: S101  the factory refuses no connection

        def opened(knocked: Knocked) -> Awaitable[IProtocol]:
            return self._carried(knocked, upper)

        return await self._knocker.knock(self._line, self._host, self._port, opened)

    async def _carried(self, knocked: Knocked, upper: IProtocol) -> IProtocol:
        """*upper*, connected once the channel says that this is the bridge. Raises `WrongPeer` if it is not."""
        try:
            line = self._line if knocked.epoch is None else self._line.forward(knocked.epoch)
            with knocked.socket as connected:
                heard = Heard(upper, knocked.hung_up)
                below = _Below(lambda: self._channel.open(line, knocked.isn, self._host, heard))
                self._reactor.adoptStreamConnection(connected.fileno(), connected.family, below)
            await below.opened
        except ChannelFailed as error:
            raise WrongPeer(error.reason) from error
        except OSError as error:  # a RST came right behind the SYN-ACK
            raise WrongPeer("it reset the connection at once") from error
        return upper


def _named(host: str, port: int) -> IPv4Address | IPv6Address:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


class _Below(Factory):
    """Gives a connection that stands its channel."""

    noisy = False
    opened: Deferred[None]

    def __init__(self, open_channel: Callable[[], tuple[IProtocol, Deferred[None]]]) -> None:
        self._open_channel = open_channel

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:  # type: ignore[override]  # Twisted asks for less
        lower, self.opened = self._open_channel()
        return lower
