"""The suites of channel `tls` and its pump, with a browser's TLS at the client's end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.channel import test_bios, test_loopback, test_pump, test_tls
from torknock.channel.browser import Browser
from torknock.channel.hello import BrowserHello

HELLO = BrowserHello(Browser(random.SystemRandom().shuffle))


class OpenTests(test_tls.OpenTests):
    """At an independent server: pin, names, trust, what is sent to others, timeouts."""

    def make_hello(self) -> BrowserHello:
        return BrowserHello(Browser(random.SystemRandom().shuffle))

    @given(st.binary(min_size=1, max_size=200).map(lambda octets: b"\x16\x03\x03" + octets) | st.binary(max_size=200))
    def test_garbage(self, octets: bytes) -> None:
        """Whatever answers in place of TLS, it is a failure, and no trace is left."""
        self.assert_garbage_fails(octets)


class CarryTests(test_tls.CarryTests):
    """With a bridge of ours, in memory: closing, half-close, truncation, tampering, back-pressure."""

    def make_hello(self) -> BrowserHello:
        return HELLO

    @given(st.integers(1, 3000), st.data())
    def test_the_cut_does_not_matter(self, cut: int, data: st.DataObject) -> None:
        """What is written arrives, whatever pieces it is written in and the network makes of it."""
        self.assert_cut(cut, data)


class MemoryTests(test_bios.MemoryTests):
    """What a connection keeps while it is idle, and once it has ended: nothing that needs the garbage collector."""

    idle_at_most = 250_000  # the library's BIOs stay as large as what they held

    def make_hello(self) -> BrowserHello:
        return HELLO


class LoopbackTests(test_loopback.TLSTests):
    """Over TCP connections of the kernel's: what `IClientChannel` and `IServerChannel` promise."""

    def make_hello(self) -> BrowserHello:
        return HELLO


class PumpTests(test_pump.PumpTests):
    """With OpenSSL's own programs as peers."""

    def make_hello(self) -> BrowserHello:
        return HELLO
