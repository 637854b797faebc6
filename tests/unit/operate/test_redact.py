"""Tests of torknock.redact."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.addresses import GLUED, STAYS, addresses_in, spelled
from torknock.redact import redact

HEX = st.binary(min_size=20, max_size=20).map(bytes.hex)


class RedactTests(SynchronousTestCase):
    """What may be posted in public."""

    @given(spelled())
    def test_no_address_in_any_spelling_is_left(self, text: str) -> None:
        """Short and long, in upper case, in brackets, with a port, a prefix or a zone, beside any mark."""
        self.assertNotEqual(addresses_in(text), [])
        self.assertEqual(addresses_in(redact(text)), [], text)

    def test_times_dates_and_versions_stay(self) -> None:
        """They are what a log is read for."""
        for text in STAYS:
            self.assertEqual(redact(text), text)

    def test_what_is_glued_to_an_address_does_not_hide_it(self) -> None:
        """Some messages have no space there."""
        for text in GLUED:
            self.assertRegex(redact(text), r"^[a-z]*\[scrubbed\](, to)?$")

    def test_a_part_of_an_address_is_taken_out(self) -> None:
        """The end of a log may begin within one."""
        for text in ("1:db8:0:1 came", "0.113.7.8 came"):
            self.assertIn("[scrubbed]", redact(text))

    @given(HEX)
    def test_fingerprints_are_taken_out(self, fingerprint: str) -> None:
        """With and without the nickname that tor puts behind them."""
        for form in (fingerprint.upper(), fingerprint, f"${fingerprint}~alice", f"${fingerprint}=alice"):
            self.assertNotIn(fingerprint.lower(), redact(f"connection to {form} at").lower())

    def test_secrets_are_taken_out(self) -> None:
        """A whole bridge line leaves its name alone."""
        line = f"Bridge torknock 192.0.2.7:443 {'A' * 40} key={'k' * 43} pin={'p' * 43} sni=www.example.org"
        said = redact(line)
        for secret in ("192.0.2.7", "AAAA", "kkkk", "pppp", "example"):
            self.assertNotIn(secret, said)

    @given(st.text())
    def test_a_line_stays_a_line(self, text: str) -> None:
        """Nothing breaks out of it, and what was taken out stays so."""
        said = redact(text)
        self.assertTrue(said.isprintable())
