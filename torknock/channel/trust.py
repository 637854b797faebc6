"""Whether a trust store knows who has signed a certificate, judged by OpenSSL."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError

_RSA_BITS, _EC_BITS, _DIGEST_OCTETS = 2048, 224, 28
"""The least that is accepted: 112 bits of strength (SSL_CTX_set_security_level(3), level 2)."""

_FOR_SERVERS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def distrusted(store: X509Store, chain: Sequence[bytes]) -> bool:
    """Whether *chain*, certificates in DER with the server's own first, does not lead to one of *store*'s now.

    Dates count; names are for the caller. A certificate that is not for TLS servers leads nowhere, nor does one whose
    issuer's is for something else, such as mail. Keys and signatures are as strong as OpenSSL demands of them in a
    handshake (security level 2). What cannot be read is distrusted.
    """
    try:
        shown = [x509.load_der_x509_certificate(octets) for octets in chain]
        if not shown:
            return True
        own, *others = [X509.from_cryptography(each) for each in shown]
        *below, root = (each.to_cryptography() for each in X509StoreContext(store, own, others).get_verified_chain())
        strong = _strong_key(root) and all(_strong_key(each) and _strong_signature(each) for each in below)
        return not (strong and all(_for_servers(each) for each in below or [root]))
    except (X509StoreContextError, ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        return True


def _for_servers(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return not _FOR_SERVERS.isdisjoint(usage)


def _strong_key(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.key_size >= _EC_BITS
    return isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey))


def _strong_signature(certificate: x509.Certificate) -> bool:
    algorithm = certificate.signature_hash_algorithm
    return algorithm is None or algorithm.digest_size >= _DIGEST_OCTETS  # None: Ed25519 and Ed448
