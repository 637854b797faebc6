"""Channel `web`, the client's end: a browser's request for a WebSocket, with a proof in a cookie (protocol.md §3a).

Order of events: `begin`, `handshakeDone`, `received` until the head of the answer is whole. The upper protocol is
connected when the bridge's own proof is right, and never before: what answers with anything else is a web server, which
has seen a web request.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
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
from torknock.channel.tls_client import Dialled
from torknock.protocol.bridge_line import Line
from torknock.protocol.exchanges import Site as Exchanges
from torknock.protocol.token import proof_key
from torknock.protocol.upgrade import (
    ASKED_AT_MOST,
    HeadReader,
    NotAnUpgrade,
    behind_head,
    read_answer,
    write_request,
)
from torknock.protocol.web_proof import NONCE, Session, client_proof, server_proof

ANSWER_WITHIN = 15.0
"""Seconds that the client gives the bridge from the TCP handshake to the answer to its request."""

_CHROME = 152
"""The version of Chrome that the request is like."""


@implementer(IClientChannel)
class ClientWeb:
    """The client's end of channel `web`. Its streams are shaped, with the exchanges of *site* (`Shapes`)."""

    def __init__(self, clock: IReactorTime, chance: Chance, hello: Hello, site: Exchanges | None = None) -> None:
        self._clock, self._chance, self._hello = clock, chance, hello
        self._shapes = Shapes(clock, chance, site)

    def open(self, line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        """See `IClientChannel.open`. No request is written before the site's certificate has been verified.

        Raises `CannotOpen`.
        """
        nonce = self._chance.randbytes(NONCE)
        side = _Client(self._hello.begin(line), Dialled(line, isn, host), nonce, self._shapes, upper)
        return side.pump, side.opened.addTimeout(ANSWER_WITHIN, self._clock, _too_late)


class _Client:
    """A connection to what should be the bridge's site."""

    says_alerts = False

    def __init__(self, tls: TLS, dialled: Dialled, nonce: bytes, shapes: Shapes, upper: IProtocol) -> None:
        self.pump = TLSPump(self)
        self.opened: Deferred[None] = Deferred(lambda _: self.pump.abortConnection())
        self._tls, self._dialled, self._nonce = tls, dialled, nonce
        plan = shapes.web_plan(ASKED_AT_MOST)
        self._first, self._timer = plan.exchanges.popleft(), shapes.timer()
        behind = behind_head(sum(self._first.answers))
        self._waiting: IProtocol | None = shapes.client(upper, plan, awaited=behind)
        self._reader = HeadReader()
        self._answer = b""
        """The bridge's proof, if it is the bridge."""

    def begin(self) -> TLS:
        return self._tls

    def handshakeDone(self) -> None:
        line = self._dialled.line
        if wrong := wrong_peer(self._tls, line, self._dialled.host):
            self.broken(wrong)
            return
        session = Session(self._dialled.isn, _spki_hash(self._tls), self._nonce)
        key = proof_key(line.secret, line.bridge_name)
        self._answer = server_proof(key, session)
        first, proof = self._first, client_proof(key, session)
        request = write_request(
            line.path, _host(line), self._nonce, proof, _CHROME, size=first.request, asked=sum(first.answers)
        )
        self._timer.set(first.think, partial(self.pump.write, request))

    def received(self, octets: bytes) -> None:
        try:
            self._reader.feed(octets)
            if self._reader.head is None:
                return
            given = read_answer(self._reader.head, self._nonce)
        except NotAnUpgrade as error:
            self.broken(f"its web server is not the bridge's: {error}")
            return
        if not hmac.compare_digest(given, self._answer):
            self.broken("its web server is not the bridge's: its proof is wrong")
            return
        upper, self._waiting = self._waiting, None
        assert upper is not None  # noqa: S101  the answer is read once
        self.pump.carry(upper, self._reader.rest)
        self.opened.callback(None)

    def broken(self, reason: str) -> None:
        """End TCP as a browser does, without close_notify. Before the request nothing leaves but the ClientHello."""
        self.pump.turn_deaf()
        self.pump.leave()
        self._fail(reason)

    def gone(self) -> None:
        self._fail("it closed the connection before it had answered")

    def _fail(self, reason: str) -> None:
        self._timer.stop()
        if not self.opened.called:
            self.opened.errback(ChannelFailed(reason))


def _host(line: Line) -> str:
    assert line.sni is not None  # noqa: S101  a line of channel `web` has one
    return line.sni


def _spki_hash(tls: TLS) -> bytes:
    certificate = tls.peer_certificate()
    assert certificate is not None  # noqa: S101  `wrong_peer` has looked at it
    return hashlib.sha256(
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).digest()


def _too_late(result: object, timeout: float) -> None:
    raise ChannelFailed(f"it did not answer within {timeout:.0f} s")
