"""Tests of torknock.channel.trust, with certificates that are made here."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL.crypto import X509, X509Store
from twisted.trial.unittest import SynchronousTestCase

from torknock.channel.trust import distrusted

KEYS: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey] = {
    **{name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle", "server")},
    "weak": rsa.generate_private_key(65537, 1024),  # noqa: S505  that it is refused is the test
    "small": ec.generate_private_key(ec.SECP192R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "edwards": ed25519.Ed25519PrivateKey.generate(),
}


def issued(name: str, issuer: str, *usages: x509.ObjectIdentifier, ca: bool = False, days: int = 1) -> x509.Certificate:
    """A certificate of *name*'s key, signed by *issuer*'s, for *usages* or for any; it ends after *days*."""
    now = datetime.datetime.now(datetime.UTC)
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    key = KEYS[name].public_key()
    builder = x509.CertificateBuilder(signer, subject, key, x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=9))
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    signer_key = KEYS[issuer]
    return builder.sign(signer_key, None if isinstance(signer_key, ed25519.Ed25519PrivateKey) else SHA256())


ROOT, MIDDLE = issued("root", "root", ca=True), issued("middle", "root", ca=True)


class DistrustedTests(SynchronousTestCase):
    """Whether a chain leads to what is trusted."""

    def assert_distrusted(self, expected: bool, *chain: x509.Certificate) -> None:
        """Where `ROOT` alone is trusted."""
        store = X509Store()
        store.add_cert(X509.from_cryptography(ROOT))
        self.assertIs(distrusted(store, [each.public_bytes(Encoding.DER) for each in chain]), expected)

    def test_a_chain_to_the_root(self) -> None:
        """Of any length, as long as what is between is shown too."""
        self.assert_distrusted(False, issued("server", "root"))
        self.assert_distrusted(False, issued("server", "middle"), MIDDLE)
        self.assert_distrusted(True, issued("server", "middle"))

    def test_what_it_is_for(self) -> None:
        """A certificate for servers, or for anything; not one for clients or mail."""
        for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE):
            self.assert_distrusted(False, issued("server", "root", ExtendedKeyUsageOID.CLIENT_AUTH, usage))
        for usage in (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION):
            self.assert_distrusted(True, issued("server", "root", usage))

    def test_an_issuer_that_is_not_for_servers_leads_nowhere(self) -> None:
        """One that may sign certificates for mail alone; one for servers may."""
        mail, servers = ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.SERVER_AUTH
        for usage, expected in ((mail, True), (servers, False)):
            middle = issued("middle", "root", usage, ca=True)
            self.assert_distrusted(expected, issued("server", "middle", servers), middle)

    def test_a_weak_key_leads_nowhere(self) -> None:
        """The server's, an issuer's or the root's: as in a handshake of OpenSSL's."""
        for name, expected in (("weak", True), ("small", True), ("rsa", False), ("edwards", False)):
            self.assert_distrusted(expected, issued(name, "root"))
            self.assert_distrusted(expected, issued("server", name), issued(name, "root", ca=True))
            store = X509Store()
            store.add_cert(X509.from_cryptography(issued(name, name, ca=True)))
            own = issued("server", name).public_bytes(Encoding.DER)
            self.assertIs(distrusted(store, [own]), expected)

    def test_what_leads_nowhere(self) -> None:
        """Another's signature, one that is no authority's, one that is over, none at all, no certificate."""
        self.assert_distrusted(True, issued("server", "server"))
        self.assert_distrusted(True, issued("server", "middle"), issued("middle", "root"))
        self.assert_distrusted(True, issued("server", "root", days=-1))
        self.assert_distrusted(True)
        self.assertTrue(distrusted(X509Store(), [b"no certificate"]))
