"""Channel `tls`: TLS 1.3 to the bridge's key, a proof of the secret inside, else silence (protocol.md §3).

To a stranger the bridge looks like many other TLS servers:

- A peer that breaks TLS, in the handshake or after it, gets OpenSSL's alert and a closed connection, as from a stock
  server. A connection that stays open after a fatal alert would be recognizable.
- A peer that speaks TLS correctly and gives no valid proof meets silence. What it sends is read and dropped; the
  connection ends at a time that was chosen when it began. Until then TLS goes on as usual, so that a wrong proof, half
  of one and none look the same, whatever follows them.
- A peer that closes the connection is answered with a close.

Order of events on the bridge: `begin`; then exactly one of proof, `Refusal` or the end of TCP settles the connection.
Only a proof connects the upper protocol, and nothing comes after it but TLSPump's relay.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from zope.interface import implementer

from torknock.channel.alpn import choose_protocol
from torknock.channel.certificate import certificate, certified
from torknock.channel.interfaces import ChannelFailed, IClientChannel, IServerChannel, NotProved
from torknock.channel.pump import TLSPump
from torknock.errors import TorknockError
from torknock.protocol.bridge_line import Line
from torknock.protocol.proof import (
    EXPORTED,
    EXPORTER_LABEL,
    PAD_AT_MOST,
    HelloReader,
    WrongHello,
    exporter_context,
    hello,
    proof,
    whose,
)
from torknock.protocol.token import proof_key

ALPN = [b"h2", b"http/1.1"]
"""What the client offers; the bridge chooses the last."""

HANDSHAKE_WITHIN = 15.0
"""Seconds that the client gives the bridge from the TCP handshake to the end of TLS's."""

PROOF_WITHIN = 20.0
"""Seconds that the bridge gives the client from the TCP handshake to its proof."""

SILENCE = (20.0, 60.0)
"""So many seconds after `PROOF_WITHIN`, at least and at most, a connection without a right proof is closed."""

LEAVE_WITHIN = 30.0
"""Seconds that a peer without a proof has, at the end, to take what was written to it."""

UNPROVEN_AT_MOST = 1024
"""Connections without a proof, silent ones included; above it the oldest is closed."""

_CERTIFICATES_AT_MOST = 64

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate that cannot be parsed."""


class Chance(Protocol):
    """What is asked of `random.SystemRandom`."""

    def randint(self, a: int, b: int) -> int:
        """A number from *a* to *b*, both included."""

    def randbytes(self, n: int) -> bytes:
        """*n* random octets."""

    def uniform(self, a: float, b: float) -> float:
        """A number between *a* and *b*."""


class TicketsSent(TorknockError):
    """OpenSSL was loaded without the configuration that keeps a server from sending session tickets."""

    def __init__(self) -> None:
        super().__init__("TLS servers of this process send session tickets", "start it as `torknock server`")


class Refusal(StrEnum):
    """Why a connection was not carried."""

    BROKE_TLS = "the client does not speak TLS 1.3 as it should"
    NO_PROOF = "the client gave no proof in time"
    WRONG_PROOF = "the client gave a wrong proof"
    LEFT = "the client left without a proof"
    CROWDED_OUT = "too many connections without a proof"


@implementer(IClientChannel)
class ClientTLS:
    """The client's end: verifies the bridge's certificate, then proves that it holds the line."""

    def __init__(self, clock: IReactorTime, chance: Chance) -> None:
        self._clock = clock
        self._chance = chance

    def open(self, line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        """See `IClientChannel.open`. Nothing is written before the bridge's certificate has been verified."""
        padding = self._chance.randbytes(self._chance.randint(0, PAD_AT_MOST))
        lower = _Client(self._trusting if line.pin is None else self._pinning, line, isn, host, padding, upper)
        return lower, lower.opened.addTimeout(HANDSHAKE_WITHIN, self._clock, _too_late)

    @cached_property
    def _pinning(self) -> SSL.Context:
        """Whose certificate it is, and that it is used by its owner, is all that is asked: no chain, no dates."""
        return _client_context(SSL.VERIFY_NONE)

    @cached_property
    def _trusting(self) -> SSL.Context:
        context = _client_context(SSL.VERIFY_PEER)
        context.set_default_verify_paths()
        return context


class _Client(TLSPump):
    """A connection to what should be the bridge. Anything else gets the ClientHello and no more."""

    says_alerts = False

    def __init__(self, context: SSL.Context, line: Line, isn: int, host: str, padding: bytes, upper: IProtocol) -> None:
        super().__init__()
        self.opened: Deferred[None] = Deferred(lambda _: self.abortConnection())
        self._context, self._line, self._isn, self._host, self._padding = context, line, isn, host, padding
        self._waiting: IProtocol | None = upper

    def begin(self) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        if self._line.sni is not None:
            connection.set_tlsext_host_name(self._line.sni.encode("ascii"))
        return connection

    def handshakeDone(self) -> None:
        wrong = _wrong(self.ssl, self._line, self._host)
        if wrong is not None:
            self.abortConnection()
            self._fail(wrong)
            return
        exported = self.ssl.export_keying_material(EXPORTER_LABEL, EXPORTED, exporter_context(self._isn))
        key = proof_key(self._line.secret, self._line.bridge_name)
        self.write(hello(proof(key, exported), self._padding))
        upper, self._waiting = self._waiting, None
        assert upper is not None  # noqa: S101  a handshake is done once
        self.carry(upper)
        self.opened.callback(None)

    def broken(self, reason: str) -> None:
        self.abortConnection()
        self._fail(reason)

    def gone(self) -> None:
        self._fail("it closed the connection before TLS was there")

    def _fail(self, reason: str) -> None:
        if not self.opened.called:
            self.opened.errback(ChannelFailed(reason))


def _too_late(result: object, timeout: float) -> None:
    raise ChannelFailed(f"it did not finish the TLS handshake within {timeout:.0f} s")


def _client_context(verify: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_alpn_protos(ALPN)
    context.set_verify(verify)
    return context


def _wrong(connection: SSL.Connection, line: Line, host: str) -> str | None:
    """Why the certificate is not the bridge's; None if it is (protocol.md §3.2)."""
    try:
        given = connection.get_peer_certificate(as_cryptography=True)
        if given is None:
            return "it has no certificate"
        public = given.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if line.pin is not None and not hmac.compare_digest(hashlib.sha256(public).digest(), line.pin):
            return "its key is not the one that the line's pin names"
        if line.sni is None:
            verify_certificate_ip_address(given, host)
        else:
            verify_certificate_hostname(given, line.sni)
    except (VerificationError, CertificateError):
        return "its certificate is for another service"
    except _UNREADABLE:
        return "its certificate cannot be read"
    return None


@implementer(IServerChannel)
class ServerTLS:
    """The bridge's end. *private_key* is the bridge's, PKCS #8 in DER.

    Raises `TicketsSent` where OpenSSL would send session tickets.
    """

    def __init__(
        self,
        clock: IReactorTime,
        private_key: bytes,
        chance: Chance,
    ) -> None:
        key = load_der_private_key(private_key, None)
        assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101  the keyring makes no others
        self._key = key
        self.clock = clock
        self.chance = chance
        self._contexts: dict[frozenset[str], SSL.Context] = {}
        self._unproven: dict[_Server, None] = {}
        if _sends_tickets(self._own_context(frozenset())):
            raise TicketsSent

    def accept(
        self, lines: Sequence[Line], isn: int, upper: IProtocol, known_at: Sequence[Collection[str]] = ()
    ) -> tuple[IProtocol, Deferred[int]]:
        """See `IServerChannel.accept`; a `Refusal` is why there is no proof."""
        lower = _Server(self, lines, isn, upper, known_at)
        return lower, lower.proved

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


class _Server(TLSPump):
    """A connection whose client has yet to prove which of *lines* it holds."""

    def __init__(
        self,
        channel: ServerTLS,
        lines: Sequence[Line],
        isn: int,
        upper: IProtocol,
        known_at: Sequence[Collection[str]],
    ) -> None:
        super().__init__()
        self.proved: Deferred[int] = Deferred()
        self._channel = channel
        self._lines, self._isn, self._known_at = lines, isn, known_at
        self._waiting: IProtocol | None = upper
        self._reader = HelloReader()
        self._timer: IDelayedCall | None = None
        self._ends = 0.0
        self._settled = False

    def begin(self) -> SSL.Connection:
        connection = SSL.Connection(self._channel.context(self.getHost().host, self._lines, self._known_at), None)
        connection.set_accept_state()
        self._channel.came(self)
        self._ends = self._channel.clock.seconds() + PROOF_WITHIN + self._channel.chance.uniform(*SILENCE)
        self._timer = self._channel.clock.callLater(PROOF_WITHIN, self._stay_silent, Refusal.NO_PROOF)
        return connection

    def received(self, octets: bytes) -> None:
        if self._settled:
            return
        try:
            self._reader.feed(octets)
        except WrongHello:
            self._stay_silent(Refusal.WRONG_PROOF)
        else:
            if self._reader.proof is not None:
                self._judge(self._reader.proof)

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
        self.abortConnection()

    def _judge(self, given: bytes) -> None:
        exported = self.ssl.export_keying_material(EXPORTER_LABEL, EXPORTED, exporter_context(self._isn))
        index = whose([proof_key(line.secret, line.bridge_name) for line in self._lines], exported, given)
        if index is None:
            self._stay_silent(Refusal.WRONG_PROOF)
            return
        upper = self._waiting
        assert upper is not None  # noqa: S101  it is judged once
        self._settle(None)
        self._channel.left(self)
        self.carry(upper, self._reader.rest)
        self.proved.callback(index)

    def _stay_silent(self, why: Refusal) -> None:
        """Read and discard, send nothing, and close in the end: every wrong proof looks like a missing one."""
        self._settle(why)
        left = self._ends - self._channel.clock.seconds()
        self._timer = self._channel.clock.callLater(left, self._close)

    def _close(self) -> None:
        """End TCP with FIN, or with RST if the peer will not take what was written before."""
        self._stop_timer()
        self.leave()
        self._timer = self._channel.clock.callLater(LEAVE_WITHIN, self.abortConnection)

    def _settle(self, why: Refusal | None) -> None:
        """It is known what becomes of the connection: it is carried (None), or refused for that reason."""
        if not self._settled:
            self._settled = True
            self._waiting = None
            self._stop_timer()
            if why is not None:
                self.proved.errback(NotProved(why))

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def _server_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    choose_protocol(context, ALPN[-1])
    return context


def _sends_tickets(context: SSL.Context) -> bool:
    """Whether a server with *context* goes on to send something of its own when the handshake is done."""
    server, client = SSL.Connection(context, None), SSL.Connection(_client_context(SSL.VERIFY_NONE), None)
    server.set_accept_state()
    client.set_connect_state()
    for speaker, listener in ((client, server), (server, client), (client, server)):
        _handshake(speaker)
        listener.bio_write(speaker.bio_read(1 << 16))
    _handshake(server)
    try:
        return bool(server.bio_read(1 << 16))
    except SSL.WantReadError:
        return False


def _handshake(connection: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
