"""Independent peers of channel `tls`: pyOpenSSL, HKDF out of hmac (RFC 5869), and nothing of torknock's."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import ipaddress
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from OpenSSL import SSL
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

KEY = ec.generate_private_key(ec.SECP256R1())
PRIVATE_KEY = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
PIN = hashlib.sha256(KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def proof(secret: bytes, pin: bytes, exported: bytes) -> bytes:
    """The proof of protocol.md §3.3."""
    prk = hmac.digest(b"torknock/1", secret, "sha256")
    key = hmac.digest(prk, b"proof\0" + pin + b"\1", "sha256")
    return hmac.digest(key, exported, "sha256")


def hello(given: bytes, pad: int) -> bytes:
    """The hello of protocol.md §3.3 with *pad* octets of padding, which may be too many."""
    return given + struct.pack("!H", pad) + b"\xaa" * pad


def exported(connection: SSL.Connection, isn: int) -> bytes:
    """The keying material that the proof is made of."""
    return connection.export_keying_material(b"EXPORTER-torknock-1", 32, struct.pack("!I", isn))


def certificate(*names: str, key: ec.EllipticCurvePrivateKey = KEY, days: int = 1) -> x509.Certificate:
    """A self-signed certificate of *key* for *names*, addresses or hosts, valid for *days*, which may be negative."""
    subject = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=9))
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=True)
    return builder.sign(key, SHA256())


def server_context(shown: x509.Certificate, key: ec.EllipticCurvePrivateKey = KEY) -> SSL.Context:
    """A TLS server with the certificate *shown*."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(shown)
    context.use_privatekey(key)
    return context


class Stock(Protocol):
    """A TLS peer without torknock: keeps what it hears, says what it is told to."""

    transport: Any

    def __init__(self, context: SSL.Context, *, server: bool = False) -> None:
        self.tls = SSL.Connection(context, None)
        if server:
            self.tls.set_accept_state()
        else:
            self.tls.set_connect_state()
        self.heard: list[bytes] = []
        """One element a record."""
        self.ready = self.ended = self.failed = False
        self.lost: Failure | None = None

    @classmethod
    def client(cls, version: int = SSL.TLS1_3_VERSION) -> Stock:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        context.set_alpn_protos([b"h2", b"http/1.1"])
        return cls(context)

    def connectionMade(self) -> None:
        self._turn()

    def dataReceived(self, data: bytes) -> None:
        self.tls.bio_write(data)
        self._turn()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def say(self, octets: bytes) -> None:
        self.tls.sendall(octets)
        self._flush()

    def finish(self) -> None:
        self.tls.shutdown()
        self._flush()

    def _turn(self) -> None:
        try:
            if not self.ready:
                self.tls.do_handshake()
                self.ready = True
            while True:
                self.heard.append(self.tls.recv(1 << 14))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error:
            self.failed = True
        self._flush()

    def _flush(self) -> None:
        try:
            while True:
                self.transport.write(self.tls.bio_read(1 << 16))
        except SSL.WantReadError:
            pass
