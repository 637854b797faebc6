"""Tests of torknock.service.grammar: what a line is, and what is none."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.strategies import pieces
from torknock.service.grammar import LINE_AT_MOST, Lines, Malformed, address, no, number, octets

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
lines = st.lists(words, min_size=1, max_size=8).map(" ".join)
hostile = st.one_of(
    st.binary(max_size=200),
    st.lists(lines, max_size=4).map(lambda said: "\n".join(said).encode() + b"\n"),
    st.integers(LINE_AT_MOST - 2, LINE_AT_MOST + 2).map(lambda size: b"x" * size + b"\n"),
)


def read(heard: list[bytes]) -> tuple[list[str], bool]:
    """The lines in *heard*, and whether it ended well."""
    found, cutting = [], Lines()
    for piece in heard:
        cutting.feed(piece)
        try:
            while (line := cutting.line()) is not None:
                found.append(line)
        except Malformed:
            return found, False
    return found, True


class LinesTests(SynchronousTestCase):
    """`Lines`, and its other direction, `octets`."""

    @given(st.lists(lines, max_size=5))
    def test_what_is_sent_is_heard(self, said: list[str]) -> None:
        """Line for line."""
        self.assertEqual(read([b"".join(octets(line) for line in said)]), (said, True))

    @given(hostile.flatmap(lambda whole: st.tuples(st.just(whole), pieces(whole))))
    def test_the_cut_does_not_matter(self, drawn: tuple[bytes, list[bytes]]) -> None:
        """The same lines and the same end, however the octets come."""
        whole, heard = drawn
        self.assertEqual(read(heard), read([whole]))

    @given(hostile)
    def test_any_octets_are_lines_or_malformed(self, heard: bytes) -> None:
        """They are lines that could be sent, or `Malformed`, and never more than one line is held."""
        found, _good = read([heard])
        for line in found:
            octets(line)

    def test_a_line_has_at_most_16384_octets(self) -> None:
        """16,384 octets with LF are a line; one more is none, and is not waited for."""
        self.assertEqual(read([b"x" * (LINE_AT_MOST - 1) + b"\n"]), (["x" * (LINE_AT_MOST - 1)], True))
        self.assertEqual(read([b"x" * (LINE_AT_MOST - 1)]), ([], True))
        self.assertEqual(read([b"x" * LINE_AT_MOST]), ([], False))
        self.assertRaises(Malformed, octets, "x" * LINE_AT_MOST)

    def test_what_is_no_line_is_malformed(self) -> None:
        """Nothing at all, other spaces, other line ends, other letters."""
        for said in ("", " ", " a", "a ", "a  b", "a\tb", "a\r", "a\0", "é", "a\nb"):
            self.assertRaises(Malformed, octets, said)
            self.assertFalse(read([said.encode("latin-1") + b"\n"])[1] and "\n" not in said, said)


class WordsTests(SynchronousTestCase):
    """`number`, `address`, `no`."""

    @given(st.integers(0, 2**32))
    def test_numbers_in_their_range_are_read(self, value: int) -> None:
        """In their range."""
        self.assertEqual(number(str(value), 0, 2**32), value)
        self.assertRaises(Malformed, number, str(value), value + 1, 2**33)
        self.assertRaises(Malformed, number, str(value), -1, value - 1)

    def test_the_longest_number_has_64_bits(self) -> None:
        """Twenty digits; one more is none, whatever the range."""
        self.assertEqual(number(str(2**64 - 1), 0, 2**70), 2**64 - 1)
        self.assertRaises(Malformed, number, "1" + 20 * "0", 0, 2**70)

    def test_what_is_no_number_is_malformed(self) -> None:
        """Signs, zeros in front, other digits, too many."""
        for word in ("", "-1", "+1", "01", "00", "1_0", "0x1", "\u0661", "1" * 5000, "1.0", "1 "):
            self.assertRaises(Malformed, number, word, 0, 2**32)

    @given(st.ip_addresses())
    def test_canonical_addresses_are_read(self, value: object) -> None:
        """In their canonical form."""
        self.assertEqual(address(str(value)), value)

    def test_what_is_no_canonical_address_is_malformed(self) -> None:
        """Names, other forms of an address."""
        self.assertEqual(address("fe80::1%eth0"), ip_address("fe80::1%eth0"))
        for word in ("", "localhost", "1", "127.1", "010.0.0.1", "::0", "2001:DB8::1", "[::1]", "::1/128"):
            self.assertRaises(Malformed, address, word)

    @given(st.text(max_size=3000))
    def test_no_is_a_line(self, text: str) -> None:
        """Whatever the text."""
        octets(no("kind", text))
