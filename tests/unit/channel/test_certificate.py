"""Tests of torknock.channel.certificate."""

from __future__ import annotations

import datetime
import os
import subprocess
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.channel.peer import KEY
from torknock.channel.certificate import certificate, certified

ADDRESSES = st.ip_addresses().map(str)
HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9]{0,20}){1,3}", fullmatch=True)


class CertificateTests(SynchronousTestCase):
    """The bridge's certificate."""

    @settings(max_examples=30)
    @given(st.sets(ADDRESSES, min_size=1, max_size=4), st.sets(HOSTS, max_size=3))
    def test_names(self, addresses: set[str], hosts: set[str]) -> None:
        """It is for each name that was given, and for no other."""
        minted = certificate(KEY, addresses | hosts)
        for address in addresses:
            verify_certificate_ip_address(minted, address)
        for host in hosts:
            verify_certificate_hostname(minted, host)
        for stranger in {"192.0.2.99", "2001:db8::99"} - addresses:
            self.assertRaises(VerificationError, verify_certificate_ip_address, minted, stranger)
        names = minted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(len(list(names)), len(addresses | hosts))

    def test_it_proves_its_key(self) -> None:
        """It is signed by its own key."""
        minted = certificate(KEY, ["192.0.2.7"])
        minted.verify_directly_issued_by(minted)
        self.assertEqual(minted.public_key(), KEY.public_key())

    def test_dates_tell_nothing(self) -> None:
        """Ten years that began in the past, on a day of this key's own."""
        minted = [certificate(key, ["192.0.2.7"]) for key in (KEY, ec.generate_private_key(ec.SECP256R1()))]
        for each in minted:
            began = each.not_valid_before_utc
            self.assertEqual(each.not_valid_after_utc - began, datetime.timedelta(days=3650))
            self.assertTrue(2022 <= began.year <= 2025, began)
        self.assertNotEqual(*(each.not_valid_before_utc for each in minted))
        self.assertEqual(certificate(KEY, ["192.0.2.8"]).not_valid_before_utc, minted[0].not_valid_before_utc)

    def test_it_is_always_the_same(self) -> None:
        """Octet for octet for the same names, in whatever order, and of another serial number for others."""
        minted = certificate(KEY, ["192.0.2.7", "a.example"])
        self.assertEqual(certificate(KEY, ["a.example", "192.0.2.7"]), minted)
        self.assertNotEqual(certificate(KEY, ["192.0.2.7"]).serial_number, minted.serial_number)

    def test_it_looks_like_one_of_openssl(self) -> None:
        """Subject and extensions are those of openssl-req(1), and so is the length of the number."""
        name = self.mktemp()
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch",
             "-days", "3650", "-addext", "subjectAltName=IP:192.0.2.7", "-keyout", name],
            capture_output=True, check=True, env={**os.environ, "OPENSSL_CONF": "/etc/ssl/openssl.cnf"},
        )  # fmt: skip
        theirs, ours = x509.load_pem_x509_certificate(made.stdout), certificate(KEY, ["192.0.2.7"])
        self.assertEqual((ours.subject, ours.issuer), (theirs.subject, theirs.issuer))
        self.assertEqual(ours.signature_algorithm_oid, theirs.signature_algorithm_oid)
        extensions = [{(each.oid, each.critical) for each in of.extensions} for of in (ours, theirs)]
        self.assertGreaterEqual(*extensions)  # newer ones leave the authority's key out
        for kind in (x509.SubjectAlternativeName, x509.BasicConstraints):
            one, other = (of.extensions.get_extension_for_class(kind).value for of in (ours, theirs))
            self.assertEqual(one, other)
        self.assertTrue(150 < ours.serial_number.bit_length() <= 159)

    def test_one_address_in_two_spellings(self) -> None:
        """An IPv6 address is the same however it is written."""
        minted = certificate(KEY, ["2001:db8:0:0::7"])
        names = minted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.IPAddress), [ip_address("2001:db8::7")])


class CertifiedTests(SynchronousTestCase):
    """For what a certificate is, given the lines whose token a SYN had."""

    def assert_certified(self, names: set[str], dialled: str, *lines: tuple[str | None, tuple[str, ...]]) -> None:
        self.assertEqual(certified(dialled, lines), names)

    def test_the_address_that_was_dialled(self) -> None:
        """It alone, if the line was printed with it, or with nothing that is known."""
        self.assert_certified({"192.0.2.7"}, "192.0.2.7", (None, ("192.0.2.7", "192.0.2.8", "2001:db8::7")))
        self.assert_certified({"192.0.2.7"}, "192.0.2.7", (None, ()))
        self.assert_certified({"fe80::1"}, "fe80::1%eth0", (None, ()))

    def test_behind_address_translation(self) -> None:
        """The line's own addresses, of the kind that was dialled if there is one, and never the inner address."""
        self.assert_certified({"192.0.2.7"}, "10.0.0.7", (None, ("192.0.2.7", "2001:db8::7")))
        self.assert_certified({"192.0.2.7"}, "fd00::7", (None, ("192.0.2.7",)))

    def test_a_name(self) -> None:
        """A client whose line has a name looks for no address."""
        self.assert_certified({"a.example"}, "192.0.2.7", ("a.example", ("192.0.2.7",)))

    def test_lines_that_share_a_token(self) -> None:
        """What both need; the one that was reached, if the other's client would dial another address; else nothing."""
        alice, bob, carol = (None, ("192.0.2.7",)), (None, ("192.0.2.8",)), ("c.example", ("192.0.2.7",))
        self.assert_certified({"192.0.2.7"}, "192.0.2.7", alice, alice)
        self.assert_certified({"192.0.2.8"}, "192.0.2.8", alice, bob)
        self.assert_certified(set(), "10.0.0.7", alice, bob)
        self.assert_certified(set(), "10.0.0.7", alice, carol)
        self.assert_certified({"c.example"}, "10.0.0.7", carol, carol)
        self.assert_certified(set(), "10.0.0.7")
