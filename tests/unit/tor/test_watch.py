"""Tests of what torknock.tor.watch makes of tor's words; a real tor is asked in `test_running_tor`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.tor.watch import without_addresses


class AddressTests(SynchronousTestCase):
    """What tor says may hold a client's address."""

    @given(st.text(" :[]x"), st.ip_addresses().map(str), st.text(" ]x"))
    def test_no_address_is_left(self, before: str, address: str, after: str) -> None:
        """Of either family, whatever stands around it."""
        for written in (address, f"[{address}]:443"):
            self.assertNotIn(address, without_addresses(f"{before} {written} {after}").split())
        self.assertNotIn(address, without_addresses(f"from {address}:9001 to"))
        self.assertNotIn(address, without_addresses(f"x{address}, to"))

    def test_words_are_left(self) -> None:
        """Versions and file names are no addresses."""
        said = 'Managed proxy "/usr/bin/torknock": version 0.4.9 (exit 2)'
        self.assertEqual(without_addresses(said), said)

    @given(st.text())
    def test_one_line_of_bounded_length(self, message: str) -> None:
        """Whatever tor says."""
        line = without_addresses(message * 50)
        self.assertTrue(line.isprintable() and len(line) <= 300)
