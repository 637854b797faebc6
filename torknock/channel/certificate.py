"""The bridge's certificate: for what a token's line is for, and otherwise for nothing (protocol.md §3.1).

It is shown before any proof, so it must tell nothing that the sender of the token's SYN does not know.
"""

from __future__ import annotations

import datetime
import hmac
import ipaddress
from collections.abc import Collection, Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "AU"),
        x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Some-State"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Internet Widgits Pty Ltd"),
    ]
)
"""What openssl-req(1) proposes, and most self-signed certificates therefore have."""

_EARLIEST = datetime.datetime(2022, 1, 1, tzinfo=datetime.UTC)
_SPREAD = 4 * 365 * 86_400
"""Seconds after `_EARLIEST` within which a validity begins."""

_VALIDITY = datetime.timedelta(days=3650)


def certified(dialled: str, lines: Sequence[tuple[str | None, Collection[str]]]) -> frozenset[str]:
    """The names that a certificate must have for a client that dialled the bridge at *dialled*, and no others.

    Its token is one of each of *lines*: their `sni`, and the addresses that they were printed with. A client looks for
    the `sni` if its line has one, else for the address that it dialled (§3.2). *dialled* is the connection's own
    address, an IP literal; behind address translation no line has it, and the line's addresses are certified. If lines
    share the token, what all of them need is certified: nothing, if they have nothing in common.
    """
    address = dialled.partition("%")[0]  # a link-local address of IPv6 comes with its link
    wanted = [frozenset({sni}) if sni is not None else _addresses(address, known) for sni, known in lines]
    reached = [names for names in wanted if address in names]  # the others' clients dial another address
    return frozenset.intersection(*(reached or wanted)) if wanted else frozenset()


def certificate(key: EllipticCurvePrivateKey, names: Iterable[str]) -> x509.Certificate:
    """The certificate of *key* for *names*: IP literals become IP-IDs, others DNS-IDs (RFC 9525).

    In form it is what `openssl req -x509 -days 3650 -addext subjectAltName=...` writes. Date and serial number are
    drawn out of the key and the signature is deterministic (RFC 6979), so the same key and names always give the same
    octets: it tells neither the bridge's clock nor when it was started.
    """
    wanted = sorted(set(names))
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    begins = _EARLIEST + datetime.timedelta(seconds=_drawn(key, "begins") % _SPREAD)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_SUBJECT)
        .issuer_name(_SUBJECT)
        .public_key(key.public_key())
        .serial_number(_drawn(key, " ".join(("serial", *wanted))) >> 97)  # 159 bits: positive in 20 octets
        .not_valid_before(begins)
        .not_valid_after(begins + _VALIDITY)
        .add_extension(subject_key, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if wanted:
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in wanted])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(key, SHA256(), ecdsa_deterministic=True)


def _addresses(dialled: str, known: Collection[str]) -> frozenset[str]:
    """The address that a client of a line with the addresses *known* dialled, or those that it may have dialled."""
    if dialled in known or not known:
        return frozenset({dialled})
    version = ipaddress.ip_address(dialled).version
    return frozenset(each for each in known if ipaddress.ip_address(each).version == version) or frozenset(known)


def _drawn(key: EllipticCurvePrivateKey, purpose: str) -> int:
    """256 bits that are the same whenever they are drawn, and that cannot be predicted without *key*."""
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return int.from_bytes(hmac.digest(secret, b"torknock/1 certificate\0" + purpose.encode(), "sha256"))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
