"""Tests of torknock.service.dial_requests: the grammar of `torknock dial`."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.service import dial_requests
from torknock.service.dial_requests import Request, parse
from torknock.service.grammar import Malformed

addresses = st.ip_addresses().map(str)
wanted = st.builds(
    Request, addresses, st.integers(1, 65535), st.none() | st.integers(1, 2**32 - 1), st.none() | addresses
)
almost = st.lists(
    st.sampled_from(["dial", "stamped", "isn", "tsval", "127.0.0.1", "::1", "0", "1", "65536", "4294967296", "-1"]),
    max_size=6,
).map(" ".join)


class RequestTests(SynchronousTestCase):
    """What is asked."""

    @given(wanted)
    def test_a_request_is_read_as_it_was_written(self, request: Request) -> None:
        """What is written is read."""
        self.assertEqual(parse(str(request)), request)

    def test_as_it_is_sent(self) -> None:
        """Word for word."""
        self.assertEqual(str(Request("192.0.2.1", 443, 7, None)), "dial 192.0.2.1 443 7")
        self.assertEqual(str(Request("2001:db8::1", 443, 7, "::2")), "dial 2001:db8::1 443 7 ::2")
        self.assertEqual(str(Request("192.0.2.1", 443, None, None)), "stamped 192.0.2.1 443")

    @given(st.one_of(st.text(), almost))
    def test_any_line_is_a_request_or_malformed(self, line: str) -> None:
        """It is a request that is written in the same way, or `Malformed`."""
        try:
            request = parse(line)
        except Malformed:
            return
        self.assertEqual(str(request), line)

    def test_out_of_range(self) -> None:
        """ISN 0, port 0, names, too many words."""
        for line in (
            "dial 192.0.2.1 443 0", "dial 192.0.2.1 0 7", "dial bridge.example 443 7", "dial 192.0.2.1 443",
            "dial 192.0.2.1 443 7 ::1 ::1", "stamped 192.0.2.1 443 7",
            "stamped 192.0.2.1 443 ::1 ::1", "stamped 192.0.2.1", "Dial 192.0.2.1 443 7",
        ):  # fmt: skip
            self.assertRaises(Malformed, parse, line)


class AnswerTests(SynchronousTestCase):
    """What is said about it."""

    @given(st.integers(0, 2**32 - 1))
    def test_tsval_and_isn(self, value: int) -> None:
        """What is written is read, and never one for the other."""
        self.assertEqual(dial_requests.parse_tsval(dial_requests.tsval(value)), value)
        self.assertEqual(dial_requests.parse_isn(dial_requests.isn(value)), value)
        self.assertRaises(Malformed, dial_requests.parse_isn, dial_requests.tsval(value))
        self.assertRaises(Malformed, dial_requests.parse_tsval, dial_requests.isn(value))

    def test_numbers_that_are_too_large_are_refused(self) -> None:
        """TSval and ISN have 32 bits; Linux has no errno above 4,095."""
        self.assertRaises(Malformed, dial_requests.parse_tsval, "tsval 4294967296")
        self.assertRaises(Malformed, dial_requests.parse_isn, "isn 4294967296")
        self.assertRaises(Malformed, dial_requests.parse_errno_and_text, "4096 some")

    @given(st.one_of(st.text(), almost))
    def test_any_answer_is_as_it_is_written_or_malformed(self, line: str) -> None:
        """It is what would be written like that, or `Malformed`; nothing is read leniently."""
        readings: tuple[Callable[[], str], ...] = (
            lambda: dial_requests.tsval(dial_requests.parse_tsval(line)),
            lambda: dial_requests.isn(dial_requests.parse_isn(line)),
        )
        for read in readings:
            try:
                written = read()
            except Malformed:
                continue
            self.assertEqual(written, line)

    @given(wanted.map(str), st.data())
    def test_a_request_with_an_octet_changed(self, line: str, data: st.DataObject) -> None:
        """Near misses of a right request too."""
        at = data.draw(st.integers(0, len(line) - 1))
        came = line[:at] + chr(data.draw(st.integers(0, 255))) + line[at + 1 :]
        try:
            request = parse(came)
        except Malformed:
            return
        self.assertEqual(str(request), came)

    @given(st.none() | st.integers(1, 4095), st.text())
    def test_errno_and_text(self, number: int | None, text: str) -> None:
        """What is written is read."""
        self.assertEqual(dial_requests.parse_errno_and_text(dial_requests.errno_and_text(number, text)), (number, text))
