"""Tests of torknock.channel.certificate."""

from __future__ import annotations

import datetime
from ipaddress import ip_address

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.trial.unittest import SynchronousTestCase

from tests.torknock.channel.peer import KEY
from torknock.channel.certificate import certificate

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
        """Its dates are those of every bridge, long past and far ahead: clocks may be wrong."""
        minted = certificate(KEY, ["192.0.2.7"])
        self.assertEqual(minted.not_valid_before_utc, datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        self.assertEqual(minted.not_valid_after_utc, datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC))

    def test_one_address_in_two_spellings(self) -> None:
        """An IPv6 address is the same however it is written."""
        minted = certificate(KEY, ["2001:db8:0:0::7"])
        names = minted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.IPAddress), [ip_address("2001:db8::7")])
