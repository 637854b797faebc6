"""What a site's web server shows in a TLS handshake over its Unix socket. It blocks: a reactor asks in a thread."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname

from torknock.errors import TorknockError
from torknock.kernel.places import SITE_SOCKET

_WITHIN = 5.0
"""Seconds for each answer of the web server."""

_HEADER = b"PROXY UNKNOWN\r\n"
_REMEDIES = {
    errno.ENOENT: "add the lines of torknock site to the web server's configuration, and start or reload it",
    errno.ECONNREFUSED: "start the web server; if it was killed, first remove site.sock and plain.sock there",
    errno.EACCES: "let tor's user write to it, and enter its directory",
}


class SiteUnusable(TorknockError):
    """The web server of a site cannot be used."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"site: {reason}", remedy)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SiteCertificate:
    """What the web server showed."""

    spki_hash: bytes
    """SHA-256 of the DER SubjectPublicKeyInfo: the `pin` of a line of channel `web`."""
    version: str
    """Of TLS, such as `TLSv1.3`."""
    expires: datetime
    trusted: bool
    """Whether this host's trust store accepts it for the name that was asked for."""
    names_address: bool
    """Whether it is for an IP address, which Certificate Transparency publishes."""


def unreachable(path: Path, error: OSError) -> SiteUnusable:
    """Why the Unix socket at *path* cannot be connected to."""
    reason = error.strerror or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "start the web server, and look at its error log")
    return SiteUnusable(f"cannot connect to {path}: {reason}", remedy)


def connect(path: Path) -> socket.socket:
    """A socket that is connected to the Unix socket at *path*, and does not block. Raises `OSError`."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.connect(os.fspath(path))
    except BaseException:
        made.close()
        raise
    return made


def look(directory: Path, name: str) -> SiteCertificate:
    """What the site in *directory* shows a client that asks for host *name*. Raises `SiteUnusable`."""
    shown = _shake_hands(directory / SITE_SOCKET, name, SSL.VERIFY_NONE)
    certificate = _certificate(shown)
    try:
        public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return SiteCertificate(
            hashlib.sha256(public).digest(),
            shown.get_protocol_version_name(),
            certificate.not_valid_after_utc,
            _trusted(directory / SITE_SOCKET, name),
            _names_address(certificate),
        )
    except ValueError:
        raise SiteUnusable("its certificate cannot be read", "look at ssl_certificate of its configuration") from None


def _trusted(path: Path, name: str) -> bool:
    try:
        verify_certificate_hostname(_certificate(_shake_hands(path, name, SSL.VERIFY_PEER)), name)
    except (SiteUnusable, VerificationError, CertificateError, ValueError):
        return False
    return True


def _names_address(certificate: x509.Certificate) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return bool(names.get_values_for_type(x509.IPAddress))


def _certificate(shown: SSL.Connection) -> x509.Certificate:
    certificate = shown.get_peer_certificate(as_cryptography=True)
    assert certificate is not None  # noqa: S101  OpenSSL's clients accept no server without one
    return certificate


def _shake_hands(path: Path, name: str, verify: int) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_alpn_protos([b"http/1.1"])
    context.set_default_verify_paths()
    context.set_verify(verify)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    connection.set_tlsext_host_name(name.encode("ascii"))
    try:
        with connect(path) as raw:
            raw.settimeout(_WITHIN)
            raw.sendall(_HEADER)
            while not _went_on(connection, raw):
                pass
    except SSL.Error:
        remedy = "look at its error log, and at ssl_certificate of its server block"
        raise SiteUnusable(f"the web server at {path} does not finish a TLS handshake", remedy) from None
    except OSError as error:
        raise unreachable(path, error) from error
    return connection


def _went_on(connection: SSL.Connection, raw: socket.socket) -> bool:
    """Whether the handshake is done; one exchange more is over if it is not."""
    done = False
    try:
        connection.do_handshake()
        done = True
    except SSL.WantReadError:
        pass
    finally:
        _flush(connection, raw)
    if not done:
        octets = raw.recv(65_536)
        if not octets:
            raise SSL.Error
        connection.bio_write(octets)
    return done


def _flush(connection: SSL.Connection, raw: socket.socket) -> None:
    with contextlib.suppress(SSL.WantReadError):
        raw.sendall(connection.bio_read(65_536))
