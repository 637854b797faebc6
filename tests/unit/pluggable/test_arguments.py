"""`pluggable.arguments`."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pluggable.arguments import parse_server_options, parse_socks, write_smethod, write_socks
from pluggable.errors import ArgumentsError

KEYS = st.text(st.characters(codec="utf-8"), min_size=1)
VALUES = st.text(st.characters(codec="utf-8"))


class SOCKSArgumentsTests(SynchronousTestCase):
    """The dialect of SOCKS."""

    def test_what_tor_writes_is_read(self) -> None:
        """tor escapes semicolon and backslash, and leaves the equals sign of a value alone."""
        self.assertEqual(parse_socks(rb"k=a\;b\\c=d;e==,x:;f="), (("k", r"a;b\c=d"), ("e", "=,x:"), ("f", "")))

    def test_what_the_specification_says_is_read_too(self) -> None:
        """An escaped equals sign is one, in a key and in a value."""
        self.assertEqual(parse_socks(rb"a\=b=c\=d"), (("a=b", "c=d"),))

    def test_order_and_repetition_are_kept(self) -> None:
        """Only the transport knows what a repeated key means."""
        self.assertEqual(parse_socks(b"b=1;a=2;b=3"), (("b", "1"), ("a", "2"), ("b", "3")))

    def test_no_octets_are_no_arguments(self) -> None:
        """A bridge line without arguments."""
        self.assertEqual(parse_socks(b""), ())

    def test_what_is_not_a_list_is_refused(self) -> None:
        """No key, no equals sign, an empty item, a backslash before nothing."""
        for bad in (b"=v", b"k", b"k=v;", b";k=v", b"k=v;;k=v", b"k=v\\", b"\\", b"k;=v"):
            with self.subTest(bad):
                self.assertRaises(ArgumentsError, parse_socks, bad)

    @given(st.binary())
    def test_any_bytes_are_read_or_refused(self, octets: bytes) -> None:
        """Whatever a bridge line holds, it is a list or an `ArgumentsError`."""
        with contextlib.suppress(ArgumentsError):
            parse_socks(octets)

    @given(st.lists(st.tuples(KEYS, VALUES)))
    def test_what_is_written_is_read_as_it_was(self, items: list[tuple[str, str]]) -> None:
        """There and back."""
        self.assertEqual(parse_socks(write_socks(items)), tuple(items))

    def test_bytes_that_are_no_text_survive(self) -> None:
        """tor passes non-ASCII through."""
        self.assertEqual(write_socks(parse_socks(b"k=\xff\xc3\xa4")), b"k=\xff\xc3\xa4")


class SMETHODArgumentsTests(SynchronousTestCase):
    """The dialect of `SMETHOD ARGS`."""

    def test_a_list_is_written_as_tor_publishes_it(self) -> None:
        """As tor publishes it."""
        self.assertEqual(write_smethod({"a": "b", "c": "A-z._~/+:0", "d": ""}), "a=b,c=A-z._~/+:0,d=")

    def test_what_would_break_a_bridge_line_is_refused(self) -> None:
        """tor writes it into bridge lines as it stands."""
        for bad in ("=", ",", "\\", ";", " ", "#", "\n", "ä", '"'):
            with self.subTest(bad):
                self.assertRaises(ValueError, write_smethod, {"k": f"x{bad}"})
                self.assertRaises(ValueError, write_smethod, {f"k{bad}": "x"})
        self.assertRaises(ValueError, write_smethod, {"": "x"})


class ServerOptionsTests(SynchronousTestCase):
    """The dialect of `TOR_PT_SERVER_TRANSPORT_OPTIONS`."""

    def test_what_tor_writes_is_read(self) -> None:
        """tor's own words, from a torrc with each of the characters that matter."""
        options = parse_server_options(r"rot:a=1;rot:b=x\:y\;z;rot:c=d\\e;rot:k==;other:a=2")
        self.assertEqual(options["rot"], (("a", "1"), ("b", "x:y;z"), ("c", "d\\e"), ("k", "=")))
        self.assertEqual(options["other"], (("a", "2"),))

    def test_an_empty_variable_has_no_options(self) -> None:
        """arti sets the variable to nothing."""
        self.assertEqual(parse_server_options(""), {})

    def test_what_is_not_a_list_is_refused(self) -> None:
        """No name, no key, no equals sign, an empty item."""
        for bad in ("a=1", ":a=1", "rot:", "rot:a", "rot:=1", "rot:a=1;", "rot;a:b=1", "rot:a=1\\"):
            with self.subTest(bad):
                self.assertRaises(ArgumentsError, parse_server_options, bad)

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """Whatever tor says, it is a list or an `ArgumentsError`."""
        with contextlib.suppress(ArgumentsError):
            parse_server_options(text)
