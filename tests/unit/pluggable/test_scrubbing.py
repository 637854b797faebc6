"""`pluggable.scrubbing`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pluggable.scrubbing import scrubbed
from tests.support.addresses import GLUED, STAYS, addresses_in, spelled


class ScrubbedTests(SynchronousTestCase):
    """`scrubbed`."""

    @given(spelled())
    def test_no_address_in_any_spelling_is_left(self, text: str) -> None:
        """Short and long, in upper case, in brackets, with a port, a prefix or a zone, beside any mark."""
        self.assertNotEqual(addresses_in(text), [])
        self.assertEqual(addresses_in(scrubbed(text)), [], text)

    def test_times_dates_and_versions_stay(self) -> None:
        """They are what a log is read for."""
        for text in STAYS:
            self.assertEqual(scrubbed(text), text)

    def test_what_is_glued_to_an_address_does_not_hide_it(self) -> None:
        """Some messages have no space there."""
        for text in GLUED:
            self.assertRegex(scrubbed(text), r"^[a-z]*\[scrubbed\](, to)?$")

    def test_addresses_are_scrubbed_with_their_ports(self) -> None:
        """With and without a port, of both families, in the clothes that Python's errors give them."""
        for address in (
            "192.0.2.7", "192.0.2.7:4242", "2001:db8::7", "[2001:db8::7]:443", "::ffff:192.0.2.7",
            "2001:db8:0:1:2:3:4:5", "fe80::1", "[fe80::1%eth0]:1",
        ):  # fmt: skip
            for around in ("to {} now", "to {}.", "'{}'", "host={}, port", "({})", "{}"):
                text = scrubbed(around.format(address))
                self.assertIn("[scrubbed]", text)
                self.assertNotIn("192", text)
                self.assertNotIn("db8", text)
                self.assertNotIn("fe80", text)

    def test_brackets_go_with_the_address_that_they_are_part_of(self) -> None:
        """Those around more than the address stay."""
        self.assertEqual(scrubbed("to [2001:db8::7]:443."), "to [scrubbed].")
        self.assertEqual(scrubbed("[2001:db8::7 said no]"), "[[scrubbed] said no]")

    def test_letters_on_both_sides_do_not_hide_an_address(self) -> None:
        """Only a name without digits is taken for one of C++."""
        self.assertEqual(scrubbed("x2001:db8::7y"), "x[scrubbed]y")

    def test_a_full_stop_after_an_address_stays(self) -> None:
        """The sentence ends there."""
        self.assertEqual(scrubbed("to 2001:db8::7. Or 192.0.2.7."), "to [scrubbed]. Or [scrubbed].")

    def test_what_the_operator_needs_stays(self) -> None:
        """Addresses that are no other host's, places in a file, MAC addresses."""
        for text in (
            "127.0.0.1:9001", "[::1]:80", "0.0.0.0:443", "[::]:443", "::1: refused", "::ffff:127.0.0.1", "a :: b",
            "gate.c:10:5: error", "00:11:22:33:44:55",
        ):  # fmt: skip
            self.assertEqual(scrubbed(text), text)

    @example(IPv6Address("::1"), ".", "")
    @given(st.ip_addresses(), st.text("() ,.'=\"/", max_size=3), st.text("() ,'=\"/", max_size=3))
    def test_no_address_beside_marks_is_left(self, address: IPv4Address | IPv6Address, before: str, after: str) -> None:
        """Any address between any marks."""
        text = scrubbed(f"{before}{address}{after}")
        mapped = isinstance(address, IPv6Address) and address.ipv4_mapped
        address = mapped or address
        harmless = address.is_loopback or address.is_unspecified or address in IPv4Network("0.0.0.0/8")
        self.assertEqual(harmless, "[scrubbed]" not in text)

    @given(st.text())
    def test_any_text_is_taken(self, text: str) -> None:
        """Nothing that is logged can hurt the log."""
        scrubbed(text)
