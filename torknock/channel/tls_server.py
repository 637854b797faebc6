"""The bridge's end of channel `tls`: a proof of a line inside TLS, else silence (protocol.md §3).

To a stranger the bridge looks like many other TLS servers:

- A peer that breaks TLS, in the handshake or after it, gets OpenSSL's alert and a closed connection, as from a stock
  server. A connection that stays open after a fatal alert would be recognizable.
- A peer that speaks TLS correctly and gives no valid proof meets silence. What it sends is read and dropped; the
  connection ends at a time that was chosen when it began. Until then TLS goes on as usual, so that a wrong proof, half
  of one and none look the same, whatever follows them.
- A peer that closes the connection is answered with a close.

Order of events: `begin`; then exactly one of proof, `Refusal` or the end of TCP settles the connection. Only a proof
connects the upper protocol, and nothing comes after it but TLSPump's relay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from zope.interface import implementer

from torknock.channel.alpn import choose_protocol
from torknock.channel.certificate import certificate, certified
from torknock.channel.interfaces import IServerChannel, NotProved
from torknock.channel.openssl_tls import OpenSSLTLS
from torknock.channel.pump import TLSPump
from torknock.channel.shapes import Shapes
from torknock.channel.side import TLS
from torknock.channel.tickets import TicketsSent, sends_tickets
from torknock.channel.tls import ALPN, Chance, tls_1_3
from torknock.protocol.bridge_line import Line
from torknock.protocol.exchanges import Site
from torknock.protocol.proof import EXPORTED, EXPORTER_LABEL, HelloReader, WrongHello, exporter_context, whose
from torknock.protocol.token import proof_key

PROOF_WITHIN = 20.0
"""Seconds that the bridge gives the client from the TCP handshake to its proof."""

SILENCE = (20.0, 60.0)
"""So many seconds after `PROOF_WITHIN`, at least and at most, a connection without a right proof is closed."""

LEAVE_WITHIN = 30.0
"""Seconds that a peer without a proof has, at the end, to take what was written to it."""

UNPROVEN_AT_MOST = 1024
"""Connections without a proof, silent ones included; above it the oldest is closed."""

_CERTIFICATES_AT_MOST = 64


class Refusal(StrEnum):
    """Why a connection was not carried."""

    BROKE_TLS = "the client does not speak TLS 1.3 as it should"
    NO_PROOF = "the client gave no proof in time"
    WRONG_PROOF = "the client gave a wrong proof"
    LEFT = "the client left without a proof"
    CROWDED_OUT = "too many connections without a proof"


@implementer(IServerChannel)
class ServerTLS:
    """The bridge's end. *private_key* is the bridge's, PKCS #8 in DER; streams are shaped as *site* says (`Shapes`).

    A connection without a proof is carried to what *strangers* gives, and stays silent if that gives None.

    Raises `TicketsSent` where OpenSSL would send session tickets.
    """

    def __init__(
        self,
        clock: IReactorTime,
        private_key: bytes,
        chance: Chance,
        site: Site | None = None,
        strangers: Callable[[], IProtocol | None] = lambda: None,
    ) -> None:
        key = load_der_private_key(private_key, None)
        assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101  the keyring makes no others
        self._key = key
        self.clock = clock
        self.chance = chance
        self.shapes = Shapes(clock, chance, site)
        self.strangers = strangers
        self._contexts: dict[frozenset[str], SSL.Context] = {}
        self._unproven: dict[_Server, None] = {}
        if sends_tickets(self._own_context(frozenset())):
            raise TicketsSent

    def accept(
        self, lines: Sequence[Line], isn: int, upper: IProtocol, known_at: Sequence[Collection[str]] = ()
    ) -> tuple[IProtocol, Deferred[int]]:
        """See `IServerChannel.accept`; a `Refusal` is why there is no proof."""
        side = _Server(self, lines, isn, upper, known_at)
        return side.pump, side.proved

    def context(self, dialled: str, lines: Sequence[Line], known_at: Sequence[Collection[str]] = ()) -> SSL.Context:
        """OpenSSL's settings, with a certificate for what *lines*, which share a token, are for (`certified`)."""
        known = known_at or [()] * len(lines)
        return self._own_context(certified(dialled, [(line.sni, at) for line, at in zip(lines, known, strict=True)]))

    def came(self, newcomer: _Server) -> None:
        """Count a connection without a proof; one too many closes the oldest."""
        self._unproven[newcomer] = None
        if len(self._unproven) > UNPROVEN_AT_MOST:
            next(iter(self._unproven)).crowd_out()

    def left(self, connection: _Server) -> None:
        """Count it no more: it is proved or gone."""
        self._unproven.pop(connection, None)

    def _own_context(self, names: frozenset[str]) -> SSL.Context:
        """OpenSSL's settings with a certificate of the bridge's key for *names*; minted once, and kept for a while."""
        if names not in self._contexts:
            if len(self._contexts) >= _CERTIFICATES_AT_MOST:
                del self._contexts[next(iter(self._contexts))]
            context = _server_context()
            context.use_certificate(certificate(self._key, names))
            context.use_privatekey(self._key)
            self._contexts[names] = context
        return self._contexts[names]


class _Server:
    """A connection whose client has yet to prove which of *lines* it holds."""

    says_alerts = True

    def __init__(
        self,
        channel: ServerTLS,
        lines: Sequence[Line],
        isn: int,
        upper: IProtocol,
        known_at: Sequence[Collection[str]],
    ) -> None:
        self.pump = TLSPump(self)
        self.proved: Deferred[int] = Deferred()
        self._channel = channel
        self._lines, self._isn, self._known_at = lines, isn, known_at
        self._waiting: IProtocol | None = upper
        """Whom the connection is for; None once it is settled."""
        self._reader = HelloReader()
        self._timer: IDelayedCall | None = None
        self._ends = 0.0

    def begin(self) -> TLS:
        connection = OpenSSLTLS(self._channel.context(self.pump.getHost().host, self._lines, self._known_at))
        connection.set_accept_state()
        self._channel.came(self)
        self._ends = self._channel.clock.seconds() + PROOF_WITHIN + self._channel.chance.uniform(*SILENCE)
        self._timer = self._channel.clock.callLater(PROOF_WITHIN, self._waited)
        return connection

    def handshakeDone(self) -> None:
        """The client's proof has to follow."""

    def received(self, octets: bytes) -> None:
        if self._waiting is None:
            return
        first = not self._reader.begun
        try:
            self._reader.feed(octets)
        except WrongHello:
            self._refuse(Refusal.WRONG_PROOF, octets, first)
            return
        given = self._reader.proof
        if given is not None and (index := self._prover(given)) is not None:
            self._serve(index)
        elif given is not None:
            self._refuse(Refusal.WRONG_PROOF, octets, first)
        elif first:  # a client's hello is one record
            self._welcomed(Refusal.WRONG_PROOF, octets)

    def broken(self, reason: str) -> None:
        self._settle(Refusal.BROKE_TLS)
        self._close()

    def gone(self) -> None:
        self._settle(Refusal.LEFT)
        self._channel.left(self)
        self._stop_timer()

    def crowd_out(self) -> None:
        """Make room for another connection, at once."""
        self._settle(Refusal.CROWDED_OUT)
        self._channel.left(self)
        self.pump.abortConnection()

    def _prover(self, given: bytes) -> int | None:
        exported = self.pump.engine.tls.export_keying_material(EXPORTER_LABEL, EXPORTED, exporter_context(self._isn))
        return whose([proof_key(line.secret, line.bridge_name) for line in self._lines], exported, given)

    def _serve(self, index: int) -> None:
        upper = self._waiting
        assert upper is not None  # noqa: S101  it is judged once
        self._settle(None)
        self._channel.left(self)
        if self._lines[index].shape:
            upper = self._channel.shapes.bridge(upper)
        self.pump.carry(upper, self._reader.rest)
        self.proved.callback(index)

    def _refuse(self, why: Refusal, octets: bytes, first: bool) -> None:
        """There is no proof in *octets*: if they are the first that came, they may be a stranger's."""
        if not (first and self._welcomed(why, octets)):
            self._stay_silent(why)

    def _welcomed(self, why: Refusal, octets: bytes) -> bool:
        """Whether strangers have a service; then the connection is carried to it, with *octets* first."""
        upper = self._channel.strangers()
        if upper is None:
            return False
        self._settle(why)
        self._channel.left(self)
        self.pump.carry(upper, octets)
        return True

    def _waited(self) -> None:
        done = not self.pump.engine.handshaking
        self._refuse(Refusal.NO_PROOF, b"", done and not self._reader.begun)

    def _stay_silent(self, why: Refusal) -> None:
        """Read and discard, send nothing, and close in the end: every wrong proof looks like a missing one."""
        self._settle(why)
        left = self._ends - self._channel.clock.seconds()
        self._timer = self._channel.clock.callLater(left, self._close)

    def _close(self) -> None:
        """End TCP with FIN, or with RST if the peer will not take what was written before."""
        self._stop_timer()
        self.pump.leave()
        self._timer = self._channel.clock.callLater(LEAVE_WITHIN, self.pump.abortConnection)

    def _settle(self, why: Refusal | None) -> None:
        """It is known what becomes of the connection: it is carried (None), or refused for that reason."""
        if self._waiting is not None:
            self._waiting = None
            self._stop_timer()
            if why is not None:
                self.proved.errback(NotProved(why))

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _server_context() -> SSL.Context:
    context = tls_1_3(SSL.TLS_SERVER_METHOD)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    choose_protocol(context, ALPN[-1].encode("ascii"))
    return context
