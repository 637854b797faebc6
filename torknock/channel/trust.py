"""Whether a trust store knows who has signed a certificate, judged by OpenSSL."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError

_FOR_SERVERS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def distrusted(store: X509Store, chain: Sequence[bytes]) -> bool:
    """Whether *chain*, certificates in DER with the server's own first, does not lead to one of *store*'s now.

    Dates count; names are for the caller. A certificate that is not for TLS servers leads nowhere, nor does one whose
    issuer's is for something else, such as mail. What cannot be read is distrusted.
    """
    try:
        shown = [x509.load_der_x509_certificate(octets) for octets in chain]
        if not shown:
            return True
        own, *others = [X509.from_cryptography(each) for each in shown]
        issuers = X509StoreContext(store, own, others).get_verified_chain()[1:-1]
        return not all(_for_servers(each) for each in (shown[0], *(each.to_cryptography() for each in issuers)))
    except (X509StoreContextError, ValueError, x509.DuplicateExtension):
        return True


def _for_servers(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return not _FOR_SERVERS.isdisjoint(usage)
