"""The client's end of channel `tls`: it verifies the bridge's certificate, then proves that it holds the line.

Order of events: `begin`; then exactly one of `handshakeDone`, `broken`, `gone`, a timeout or a cancellation settles the
connection. Only `handshakeDone`, with the bridge's certificate, connects the upper protocol. Until then nothing but the
ClientHello is written, whatever answers: no alert, no Finished, no proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime
from zope.interface import implementer

from torknock.channel.hello import Hello
from torknock.channel.interfaces import ChannelFailed, IClientChannel
from torknock.channel.peer_certificate import wrong_peer
from torknock.channel.pump import TLSPump
from torknock.channel.shapes import Shapes
from torknock.channel.side import TLS
from torknock.channel.tls import Chance
from torknock.protocol.bridge_line import Line
from torknock.protocol.exchanges import Site
from torknock.protocol.proof import EXPORTED, EXPORTER_LABEL, PAD_AT_MOST, exporter_context, hello, proof
from torknock.protocol.token import proof_key

HANDSHAKE_WITHIN = 15.0
"""Seconds that the client gives the bridge from the TCP handshake to the end of TLS's."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """What a connection should be: to the bridge of *line* at *host*, an IP literal, opened by a SYN with *isn*."""

    line: Line
    isn: int
    host: str


@implementer(IClientChannel)
class ClientTLS:
    """The client's end of channel `tls`; *hello* is what a network sees of it first.

    Streams that are to be shaped have the exchanges of *site* (`Shapes`).
    """

    def __init__(self, clock: IReactorTime, chance: Chance, hello: Hello, site: Site | None = None) -> None:
        self._clock = clock
        self._chance = chance
        self._hello = hello
        self._shapes = Shapes(clock, chance, site)

    def open(self, line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        """See `IClientChannel.open`. Nothing is written before the bridge's certificate has been verified.

        Raises `CannotOpen`.
        """
        carry = self._carry_shaped if line.shape else self._carry_plain
        side = _Client(self._hello.begin(line), Dialled(line, isn, host), carry, upper)
        return side.pump, side.opened.addTimeout(HANDSHAKE_WITHIN, self._clock, _too_late)

    def _carry_plain(self, pump: TLSPump, proved: bytes, upper: IProtocol) -> None:
        """Say the hello with the proof *proved*; what follows is *upper*'s."""
        pump.write(hello(proved, self._chance.randbytes(self._chance.randint(0, PAD_AT_MOST))))
        pump.carry(upper)

    def _carry_shaped(self, pump: TLSPump, proved: bytes, upper: IProtocol) -> None:
        """The same, with the hello in the first request of a plan (protocol.md §3.5)."""
        pump.carry(self._shapes.client(upper, self._shapes.plan(), hello(proved, b"")))


class _Client:
    """A connection to what should be the bridge. Anything else gets the ClientHello and no more."""

    says_alerts = False

    def __init__(
        self, tls: TLS, dialled: Dialled, carry: Callable[[TLSPump, bytes, IProtocol], None], upper: IProtocol
    ) -> None:
        self.pump = TLSPump(self)
        self.opened: Deferred[None] = Deferred(lambda _: self.pump.abortConnection())
        self._tls, self._dialled, self._carry = tls, dialled, carry
        self._waiting: IProtocol | None = upper

    def begin(self) -> TLS:
        return self._tls

    def handshakeDone(self) -> None:
        tls, line = self._tls, self._dialled.line
        wrong = wrong_peer(tls, line, self._dialled.host)
        if wrong is not None:
            self.pump.abortConnection()
            self._fail(wrong)
            return
        exported = tls.export_keying_material(EXPORTER_LABEL, EXPORTED, exporter_context(self._dialled.isn))
        key = proof_key(line.secret, line.bridge_name)
        upper, self._waiting = self._waiting, None
        assert upper is not None  # noqa: S101  a handshake is done once
        self._carry(self.pump, proof(key, exported), upper)
        self.opened.callback(None)

    def received(self, octets: bytes) -> None:
        """Never: the handshake's end carries the connection, or ends it."""

    def broken(self, reason: str) -> None:
        self.pump.abortConnection()
        self._fail(reason)

    def gone(self) -> None:
        self._fail("it closed the connection before TLS was there")

    def _fail(self, reason: str) -> None:
        if not self.opened.called:
            self.opened.errback(ChannelFailed(reason))


def _too_late(result: object, timeout: float) -> None:
    raise ChannelFailed(f"it did not finish the TLS handshake within {timeout:.0f} s")
