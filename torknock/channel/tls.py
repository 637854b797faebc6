"""Channel `tls`: TLS 1.3 to the bridge's key, a proof of the secret inside, else silence (protocol.md §3)."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.channel.certificate import certificate
from torknock.channel.interfaces import ChannelFailed, IClientChannel, IServerChannel
from torknock.channel.proof import (
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
from torknock.channel.pump import TLSPump
from torknock.errors import TorknockError
from torknock.isn.token import proof_key
from torknock.line import Line

_log = Logger()

ALPN = [b"h2", b"http/1.1"]
"""What the client offers; the bridge chooses the last."""

HANDSHAKE_WITHIN = 15.0
"""Seconds that the client gives the bridge from the TCP handshake to the end of TLS's."""

PROOF_WITHIN = 20.0
"""Seconds that the bridge gives the client from the TCP handshake to its proof."""

SILENCE = (20.0, 60.0)
"""The shortest and the longest silence, in seconds, before a connection without a proof is closed."""

UNPROVEN_AT_MOST = 1024
"""Connections without a proof, silent ones included; above it the oldest is closed."""

_CERTIFICATES_AT_MOST = 64


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
        super().__init__("TLS servers of this process send session tickets; start it as `torknock server`")


@implementer(IClientChannel)
class ClientTLS:
    """The client's end: checks whom it talks to, then proves that it may."""

    def __init__(self, clock: IReactorTime, chance: Chance) -> None:
        self._clock = clock
        self._chance = chance
        self._pinned = _client_context(SSL.VERIFY_NONE)
        self._trusted = _client_context(SSL.VERIFY_PEER)
        self._trusted.set_default_verify_paths()

    def open(self, line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        """See `IClientChannel.open`."""
        connection = SSL.Connection(self._trusted if line.pin is None else self._pinned, None)
        connection.set_connect_state()
        if line.sni is not None:
            connection.set_tlsext_host_name(line.sni.encode("ascii"))
        padding = self._chance.randbytes(self._chance.randint(0, PAD_AT_MOST))
        lower = _Client(connection, line, isn, host, padding, upper)
        return lower, lower.opened.addTimeout(HANDSHAKE_WITHIN, self._clock, _too_late)


class _Client(TLSPump):
    """A connection to what should be the bridge."""

    def __init__(
        self, connection: SSL.Connection, line: Line, isn: int, host: str, padding: bytes, upper: IProtocol
    ) -> None:
        super().__init__(connection)
        self.opened: Deferred[None] = Deferred(lambda _: self.abortConnection())
        self._line, self._isn, self._host, self._padding = line, isn, host, padding
        self._waiting = upper

    def handshakeDone(self) -> None:
        wrong = _wrong(self.ssl, self._line, self._host)
        if wrong:
            self.broken(wrong)
            return
        exported = self.ssl.export_keying_material(EXPORTER_LABEL, EXPORTED, exporter_context(self._isn))
        key = proof_key(self._line.secret, self._line.bridge_name)
        self.write(hello(proof(key, exported), self._padding))
        self.carry(self._waiting)
        self.opened.callback(None)

    def broken(self, reason: str) -> None:
        self.abortConnection()
        self._fail(reason)

    def gone(self, reason: Failure) -> None:
        self._fail("it closed the connection before TLS was there")

    def _fail(self, reason: str) -> None:
        if not self.opened.called:
            self.opened.errback(ChannelFailed(f"what answered the knock is not the bridge: {reason}"))


def _too_late(result: object, timeout: float) -> None:
    raise ChannelFailed(f"what answered the knock did not finish the TLS handshake within {timeout:.0f} s")


def _client_context(verify: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_alpn_protos(ALPN)
    context.set_verify(verify)
    return context


def _wrong(connection: SSL.Connection, line: Line, host: str) -> str | None:
    """Why the certificate is not the bridge's; None if it is."""
    given = connection.get_peer_certificate(as_cryptography=True)
    if given is None:
        return "it has no certificate"
    public = given.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if line.pin is not None and not hmac.compare_digest(hashlib.sha256(public).digest(), line.pin):
        return "its key is not the one that the line's pin names"
    try:
        if line.sni is None:
            verify_ip_address(connection, host)
        else:
            verify_hostname(connection, line.sni)
    except (VerificationError, CertificateError):
        return "its certificate is for another service"
    return None


@implementer(IServerChannel)
class ServerTLS:
    """The bridge's end. *private_key* is the bridge's, PKCS #8 in DER.

    *addresses* tells under which public addresses clients know the bridge, besides the one that they dialled. Raises
    `TicketsSent` where OpenSSL would send session tickets.
    """

    def __init__(
        self, clock: IReactorTime, private_key: bytes, chance: Chance, addresses: Callable[[], Collection[str]]
    ) -> None:
        key = load_der_private_key(private_key, None)
        assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101  the keyring makes no others
        self._key = key
        self.clock = clock
        self.chance = chance
        self._addresses = addresses
        self._contexts: dict[frozenset[str], SSL.Context] = {}
        self.unproven: dict[_Server, None] = {}
        self.refused = 0
        """Connections that gave no proof, or a wrong one, so far."""
        if _sends_tickets(self.context({"localhost"})):
            raise TicketsSent

    def accept(self, lines: Sequence[Line], isn: int, upper: Callable[[int], IProtocol | None]) -> IProtocol:
        """See `IServerChannel.accept`."""
        return _Server(self, lines, isn, upper)

    def names(self, dialled: str, lines: Sequence[Line]) -> set[str]:
        """What a client of one of *lines* that dialled that address may want to see in the certificate."""
        return {dialled, *self._addresses(), *(line.sni for line in lines if line.sni is not None)}

    def context(self, names: Collection[str]) -> SSL.Context:
        """OpenSSL's settings with a certificate for *names*."""
        wanted = frozenset(names)
        if wanted not in self._contexts:
            if len(self._contexts) >= _CERTIFICATES_AT_MOST:
                del self._contexts[next(iter(self._contexts))]
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
            context.use_certificate(certificate(self._key, wanted))
            context.use_privatekey(self._key)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_options(SSL.OP_NO_TICKET)
            context.set_alpn_select_callback(_choose)
            self._contexts[wanted] = context
        return self._contexts[wanted]

    def came(self, newcomer: _Server) -> None:
        """Another connection without a proof."""
        self.unproven[newcomer] = None
        if len(self.unproven) > UNPROVEN_AT_MOST:
            next(iter(self.unproven)).abortConnection()


class _Server(TLSPump):
    """A connection from somebody who has yet to prove which line is his."""

    def __init__(
        self, channel: ServerTLS, lines: Sequence[Line], isn: int, upper: Callable[[int], IProtocol | None]
    ) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # made when the address that was dialled is known
        self._channel = channel
        self._lines, self._isn, self._wanted = lines, isn, upper
        self._reader = HelloReader()
        self._timer: IDelayedCall | None = None
        self._silent = False

    def connectionMade(self) -> None:
        names = self._channel.names(self.getHost().host, self._lines)
        self.ssl = SSL.Connection(self._channel.context(names), None)
        self.ssl.set_accept_state()
        self._channel.came(self)
        self._timer = self._channel.clock.callLater(PROOF_WITHIN, self._fall_silent)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if not self._silent:
            super().dataReceived(data)

    def received(self, octets: bytes) -> None:
        try:
            self._reader.feed(octets)
        except WrongHello:
            self._fall_silent()
        else:
            if self._reader.proof is not None:
                self._judge(self._reader.proof)

    def _judge(self, given: bytes) -> None:
        exported = self.ssl.export_keying_material(EXPORTER_LABEL, EXPORTED, exporter_context(self._isn))
        index = whose([proof_key(line.secret, line.bridge_name) for line in self._lines], exported, given)
        if index is None:
            self._fall_silent()
            return
        self._leave()
        upper = self._wanted(index)
        if upper is None:
            self.loseConnection()
            return
        self.carry(upper)
        if self._reader.rest:
            upper.dataReceived(self._reader.rest)

    def broken(self, reason: str) -> None:
        """Close, as any TLS server does after an alert."""
        self._channel.refused += 1
        self.transport.loseConnection()

    def gone(self, reason: Failure) -> None:
        self._leave()

    def _leave(self) -> None:
        """The connection is no longer one without a proof."""
        self._channel.unproven.pop(self, None)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _fall_silent(self) -> None:
        """Read and discard for a while, send nothing, then close: every wrong proof looks like a missing one."""
        self._silent = True
        self._paused = True
        self._channel.refused += 1
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        silence = self._channel.chance.uniform(*SILENCE)
        self._timer = self._channel.clock.callLater(silence, self.transport.loseConnection)


def _choose(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return ALPN[-1] if ALPN[-1] in offered else SSL.NO_OVERLAPPING_PROTOCOLS


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
