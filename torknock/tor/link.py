"""Does tor answer, and whose? The beginning of tor's link protocol, as a client speaks it (tor-spec).

Cells are tor-spec's "Cell Packet format", certificates its "Certificates and keys" and cert-spec.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.errors import TorknockError

_VERSIONS, _CERTS = 7, 129  # commands
_OURS = (4, 5)
_CELL = 514
"""Octets of a cell of fixed length, link protocol 4 and newer."""
_CELLS_AT_MOST = 16
_INBOX_AT_MOST = 1 << 17

HELLO = struct.pack("!HBH2H", 0, _VERSIONS, 4, *_OURS)
"""The VERSIONS cell, the first thing that is said inside TLS."""


class NotTor(TorknockError):
    """What answers is not tor, or not as tor-spec has it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"what answers is not tor: {what}")


@dataclass(frozen=True, slots=True)
class Relay:
    """The tor that answered."""

    fingerprint: str | None
    """Of its RSA identity, 40 hexadecimal digits in upper case; None if it did not prove one."""


class Greeting:
    """What tor says first: octets in, certificates out."""

    def __init__(self) -> None:
        self._inbox = b""
        self._agreed = False
        self._cells = 0

    def feed(self, octets: bytes) -> dict[int, bytes] | None:
        """The certificates by type, once tor has sent them. Raises `NotTor`."""
        self._inbox += octets
        while (cell := self._cell()) is not None:
            command, body = cell
            self._cells += 1
            if not self._agreed:
                if command != _VERSIONS or len(body) % 2:
                    raise NotTor("it does not say its versions")
                if not set(_OURS) & set(struct.unpack(f"!{len(body) // 2}H", body)):
                    raise NotTor("it speaks no version that we do")
                self._agreed = True
            elif command == _CERTS:
                return _certificates(body)
            elif self._cells > _CELLS_AT_MOST:
                break
        if self._cells > _CELLS_AT_MOST or len(self._inbox) > _INBOX_AT_MOST:
            raise NotTor("it sends no certificates")
        return None

    def _cell(self) -> tuple[int, bytes] | None:
        """The next cell, if all of it is there."""
        circuit = 4 if self._agreed else 2
        if len(self._inbox) < circuit + 3:
            return None
        command, length = struct.unpack_from("!BH", self._inbox, circuit)
        if not self._agreed and command != _VERSIONS:
            raise NotTor("it does not say its versions")
        start = circuit + 3
        if command != _VERSIONS and command < 128:
            start, length = circuit + 1, _CELL - circuit - 1
        if len(self._inbox) < start + length:
            return None
        body, self._inbox = self._inbox[start : start + length], self._inbox[start + length :]
        return command, body


def _certificates(body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 1
    for _ in range(body[0] if body else 0):
        if at + 3 > len(body):
            raise NotTor("its certificates are cut off")
        kind, length = struct.unpack_from("!BH", body, at)
        at += 3
        if at + length > len(body):
            raise NotTor("its certificates are cut off")
        found[kind] = body[at : at + length]
        at += length
    return found


_RSA_IDENTITY, _SIGNING, _LINK, _CROSS = 2, 4, 5, 7  # CERTS cell: types of certificates
_CROSS_LABEL = b"Tor TLS RSA/Ed25519 cross-certificate"


def proved(certificates: Mapping[int, bytes], peer: bytes) -> Relay:
    """The relay whose *certificates* go with the TLS certificate *peer* (DER), signature by signature.

    Its RSA identity signs an Ed25519 identity, that a signing key, and that the TLS certificate. Their dates are not
    looked at: a clock that is wrong would make another relay of it.
    """
    try:
        identity = x509.load_der_x509_certificate(certificates[_RSA_IDENTITY]).public_key()
        cross = certificates[_CROSS]
        if not isinstance(identity, RSAPublicKey) or cross[36] != len(cross) - 37:
            return Relay(None)
        signed = identity.recover_data_from_signature(cross[37:], PKCS1v15(), None)
        if signed != hashlib.sha256(_CROSS_LABEL + cross[:36]).digest():
            return Relay(None)
        signing_key = _signed(certificates[_SIGNING], cross[:32])
        if _signed(certificates[_LINK], signing_key) != hashlib.sha256(peer).digest():
            return Relay(None)
    except (IndexError, InvalidSignature, KeyError, ValueError):
        return Relay(None)
    der = identity.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return Relay(hashlib.sha1(der, usedforsecurity=False).hexdigest().upper())


def _signed(certificate: bytes, key: bytes) -> bytes:
    """The key or digest that *certificate* (cert-spec) is for, if *key* has signed it. Raises `InvalidSignature`."""
    if len(certificate) < 104:
        raise InvalidSignature
    Ed25519PublicKey.from_public_bytes(key).verify(certificate[-64:], certificate[:-64])
    return certificate[7:39]


class _Asking(Protocol):
    transport: Any

    def __init__(self, asked: Deferred[Relay], over: Deferred[None] | None) -> None:
        self._asked: Deferred[Relay] | None = asked
        self._over = over
        self._greeting = Greeting()

    def connectionMade(self) -> None:
        self.transport.write(HELLO)

    def dataReceived(self, data: bytes) -> None:
        if self._asked is None:
            return
        try:
            certificates = self._greeting.feed(data)
            if certificates is None:
                return
            peer = self.transport.getPeerCertificate().to_cryptography().public_bytes(Encoding.DER)
            self._tell(proved(certificates, peer))
        except NotTor as error:
            self._tell(Failure(error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over is not None and not self._over.called:
            self._over.callback(None)
        self._tell(reason)

    def _tell(self, what: Relay | Failure) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.callback(what)


class _Link(BufferingTLSTransport):
    """TLS on a transport that can be half-closed.

    A wrapper of Twisted's provides what its transport does, and lends out the transport's methods: so it has its own.
    """

    transport: Any
    _ending = False

    def end(self) -> None:
        """Say no more, as a client whose tor has closed the connection, and wait for the peer's end; drop what comes.

        TLS would close a TCP connection that is half-closed at once, in the middle of what it is doing.
        """
        self._ending = True
        self.transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        if not self._ending:
            super().dataReceived(data)  # type: ignore[no-untyped-call]  # Twisted does not type it

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The peer still speaks."""


@implementer(IOpenSSLClientConnectionCreator)
class _Anybody:
    """TLS with any peer: tor proves itself inside."""

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)


def asking(asked: Deferred[Relay], over: Deferred[None] | None = None) -> Any:
    """A factory for one connection, on which tor is asked who it is.

    *asked* fires with the `Relay`, and fails with `NotTor`, or with the reason for which the connection was lost. The
    connection is the caller's to end; *over* fires when it has ended.
    """
    factory: Factory[_Asking] = Factory.forProtocol(lambda: _Asking(asked, over))
    factory.noisy = False
    made = TLSMemoryBIOFactory(cast(Any, _Anybody()), True, cast(Any, factory))
    made.noisy = False
    made.protocol = _Link
    return made
