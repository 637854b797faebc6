"""Tests of what torknock.tor.watch makes of tor's words; a real tor is asked in `test_running_tor`."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.addresses import GLUED, STAYS, addresses_in, spelled
from torknock.tor.watch import without_addresses


class AddressTests(SynchronousTestCase):
    """What tor says may hold a client's address."""

    @given(spelled())
    def test_no_address_in_any_spelling_is_left(self, text: str) -> None:
        """Short and long, in upper case, in brackets, with a port, a prefix or a zone, beside any mark."""
        self.assertNotEqual(addresses_in(text), [])
        self.assertEqual(addresses_in(without_addresses(text)), [], text)

    def test_times_dates_and_versions_stay(self) -> None:
        """They are what a log is read for."""
        for text in STAYS:
            self.assertEqual(without_addresses(text), text)

    def test_what_is_glued_to_an_address_does_not_hide_it(self) -> None:
        """Some messages have no space there."""
        for text in GLUED:
            self.assertRegex(without_addresses(text), r"^[a-z]*\[scrubbed\](, to)?$")

    @given(st.text(" :[]x"), st.ip_addresses().map(str), st.text(" ]x"))
    def test_no_address_is_left(self, before: str, address: str, after: str) -> None:
        """Of either family, whatever stands around it. What begins with 0. is no host's, but may be tor's version."""
        assume(not address.startswith("0."))
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
