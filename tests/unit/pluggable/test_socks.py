"""`pluggable.socks`."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer, error
from twisted.trial.unittest import SynchronousTestCase

from pluggable.errors import NotAllowed, SOCKSError
from pluggable.interfaces import Request
from pluggable.socks import SOCKS5, socks_error
from tests.support.strategies import pieces

GREETING = b"\x05\x02\x00\x02"
NAMED = b"\x01\x07a=1;b=2\x01\x00"
CONNECT = b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"
CONNECT6 = b"\x05\x01\x00\x04" + bytes.fromhex("20010db8000000000000000000000001") + b"\x01\xbb"


def heard(*octets: bytes) -> SOCKS5:
    """A machine that has heard *octets*."""
    machine = SOCKS5()
    for each in octets:
        machine.feed(each)
    return machine


class SOCKS5Tests(SynchronousTestCase):
    """`SOCKS5`."""

    @given(pieces(GREETING + NAMED + CONNECT))
    def test_the_request_is_the_same_however_tor_cuts_its_bytes(self, said: list[bytes]) -> None:
        """TCP has no messages."""
        machine = SOCKS5()
        self.assertEqual(b"".join(machine.feed(piece) for piece in said), b"\x05\x02\x01\x00")
        self.assertEqual(machine.request, Request("192.0.2.1", 443, (("a", "1"), ("b", "2"))))

    def test_a_request_without_arguments_needs_no_authentication(self) -> None:
        """tor without arguments offers nothing but method 0."""
        self.assertEqual(heard(b"\x05\x01\x00", CONNECT6).request, Request("2001:db8::1", 443))

    def test_arguments_are_asked_for_whenever_they_are_offered(self) -> None:
        """Method 0 would lose them."""
        self.assertEqual(SOCKS5().feed(b"\x05\x03\x00\x01\x02"), b"\x05\x02")

    def test_long_arguments_go_on_in_the_password(self) -> None:
        """Above 255 bytes tor cuts them in two."""
        name, word = b"k=" + b"v" * 253, b"w" * 255
        machine = heard(GREETING, b"\x01\xff" + name + b"\xff" + word, CONNECT)
        self.assertEqual(machine.request, Request("192.0.2.1", 443, (("k", "v" * 253 + "w" * 255),)))

    def test_only_a_single_nul_is_no_password(self) -> None:
        """Anything else belongs to the arguments."""
        machine = heard(GREETING, b"\x01\x02k=\x02\x00\x00", CONNECT)
        self.assertEqual(machine.request, Request("192.0.2.1", 443, (("k", "\0\0"),)))

    def refusal(self, *octets: bytes) -> bytes:
        machine = SOCKS5()
        with self.assertRaises(SOCKSError) as caught:
            for each in octets:
                machine.feed(each)
        return machine.refusal(caught.exception)

    def test_each_refusal_is_said_in_its_own_words(self) -> None:
        """`FF` for methods, `01 01` for arguments, a reply for a request."""
        for said in (b"\x04", b"G", b"\x05\x00", b"\x05\x01\x01"):
            self.assertEqual(self.refusal(said), b"\x05\xff")
        for said in (b"\x02", b"\x01\x00\x01", b"\x01\x01k\x00", b"\x01\x01k\x01\x00", b"\x01\x03k=\\\x01\x00"):
            self.assertEqual(self.refusal(GREETING, said), b"\x01\x01")
        for reply, said in (
            (1, b"\x04"), (1, CONNECT[:-2] + b"\x00\x00"), (7, b"\x05\x02\x00\x01"), (7, b"\x05\x03\x00\x01"),
            (8, b"\x05\x01\x00\x03\x01x\x00\x01"), (8, b"\x05\x01\x00\x02"), (1, CONNECT + b"x"),
        ):  # fmt: skip
            self.assertEqual(self.refusal(GREETING, NAMED, said), bytes([5, reply, 0, 1]) + bytes(6))

    @given(st.binary(), st.integers(0, 40))
    def test_any_bytes_are_waited_for_or_refused(self, noise: bytes, after: int) -> None:
        """Noise at any point never raises anything but `SOCKSError`, and that can be said."""
        machine = SOCKS5()
        try:
            machine.feed((GREETING + NAMED + CONNECT)[:after] + noise)
        except SOCKSError as failure:
            self.assertTrue(machine.refusal(failure))


class SOCKSErrorTests(SynchronousTestCase):
    """`socks_error`."""

    def test_each_cause_of_failure_has_its_reply(self) -> None:
        """The same for Twisted's errors and for Python's."""
        replies: dict[int, list[Exception]] = {
            1: [ValueError(), OSError(errno.EPERM, "x"), error.ConnectError(), error.UnknownHostError(), OSError("x")],
            2: [NotAllowed()],
            3: [OSError(errno.ENETUNREACH, "x"), error.NoRouteError(errno.ENETUNREACH, "x")],
            4: [OSError(errno.EHOSTUNREACH, "x"), error.ConnectError(errno.EHOSTUNREACH, "x")],
            5: [ConnectionRefusedError(), error.ConnectionRefusedError(), OSError(errno.ECONNREFUSED, "x"),
                ConnectionResetError(), OSError(errno.ECONNRESET, "x"), error.ConnectionLost(), error.ConnectionDone()],
            6: [TimeoutError(), error.TimeoutError(), error.TCPTimedOutError(errno.ETIMEDOUT, "x"),
                defer.TimeoutError(), OSError(errno.ETIMEDOUT, "x")],
            8: [OSError(errno.EADDRNOTAVAIL, "x"), error.ConnectBindError(errno.EADDRNOTAVAIL, "x")],
        }  # fmt: skip
        for reply, causes in replies.items():
            for cause in causes:
                with self.subTest(repr(cause)):
                    self.assertEqual(socks_error(cause).reply, reply)
