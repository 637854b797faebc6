"""The ways to hidden bridges: for a line and an address an endpoint, which knocks and opens the channel."""

from __future__ import annotations

from math import inf
from secrets import SystemRandom

from twisted.internet.interfaces import IStreamClientEndpoint

from torknock.channel.hello import usual_hello
from torknock.channel.interfaces import IClientChannel
from torknock.channel.raw import Raw
from torknock.channel.tls_client import ClientTLS
from torknock.channel.web import ClientWeb
from torknock.client.connection import BridgeEndpoint, Destination, named
from torknock.client.deferred_dial import DialOnFirstBytes
from torknock.client.knocker import Knocker
from torknock.client.stealth import StealthKnocker
from torknock.kernel.interfaces import IReactor
from torknock.protocol.bridge_line import Channel, Line, Scheme
from torknock.protocol.exchanges import Site


class Bridges:
    """The bridges of lines: *stealth_knocker* knocks for those of scheme `knock`, *knocker* for all others.

    Shaped streams have the exchanges of *site* (`Shapes`).
    """

    def __init__(
        self,
        reactor: IReactor,
        knocker: Knocker,
        stealth_knocker: StealthKnocker,
        chance: SystemRandom,
        site: Site | None = None,
    ) -> None:
        self._reactor = reactor
        self._knocker = knocker
        self._stealth_knocker = stealth_knocker
        hello = usual_hello(chance.shuffle)
        self._channels: dict[Channel, IClientChannel] = {
            Channel.TLS: ClientTLS(reactor, chance, hello, site),
            Channel.WEB: ClientWeb(reactor, chance, hello, site),
            Channel.RAW: Raw(),
        }

    def endpoint(self, line: Line, host: str, port: int, deadline: float = inf) -> IStreamClientEndpoint:
        """The bridge of *line* at *host*, an IP literal, and *port*; *deadline* see `Rounds.run`.

        `connect` fails as `Knocker.knock` and `StealthKnocker.knock` do. With a line that has `integrity` it fires
        before anything is dialled, and what fails later is the reason for which the protocol loses it.
        """
        channel, to = self._channels[line.channel], Destination(line, host, port, deadline)
        if line.scheme is Scheme.TOKEN:
            return BridgeEndpoint(self._reactor, self._knocker, channel, to)

        def covering(payload: bytes | None) -> IStreamClientEndpoint:
            knocker = self._stealth_knocker.covering(payload)
            return BridgeEndpoint(self._reactor, knocker, channel, to)

        return DialOnFirstBytes(line.integrity, named(host, port), covering) if line.integrity else covering(None)

    def minutes_slow(self, line: Line, host: str, port: int) -> int:
        """See `Knocker.minutes_slow`; 0 for a line whose scheme has no clock."""
        return self._knocker.minutes_slow(line, host, port) if line.scheme is Scheme.TOKEN else 0
