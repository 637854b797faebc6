"""Whether a certificate is the bridge's (protocol.md §3.2)."""

from __future__ import annotations

import hashlib
import hmac

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from torknock.channel.side import TLS
from torknock.protocol.bridge_line import Line

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate that cannot be parsed."""


def wrong_peer(tls: TLS, line: Line, host: str) -> str | None:
    """Why the certificate that was shown on *tls* is not that of *line*'s bridge at *host*; None if it is."""
    try:
        given = tls.peer_certificate()
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
