"""The suites of channel `tls` and its pump, with a browser's TLS at the client's end."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.unit.channel import test_bios, test_greedy_peers, test_loopback, test_pump, test_tls
from tests.unit.channel.openssl import Peer
from torknock.channel.browser import Browser
from torknock.channel.hello import BrowserHello
from torknock.channel.tls_client import ClientTLS

reactor: Any = _reactor

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


class HostileBridgeTests(TestCase):
    """A bridge that asks for new keys again and again, and does not read."""

    timeout = 60

    async def test_little_waits_for_it(self) -> None:
        """BoringSSL ends such a connection; what was to be said by then is not more than TCP's buffer may hold."""
        listener = test_greedy_peers._small()
        self.addCleanup(listener.close)
        listener.bind((test_greedy_peers.HOST, 0))
        listener.listen()
        client = ClientTLS(reactor, random.SystemRandom(), HELLO)
        line = test_greedy_peers.LINE
        lower, opened = client.open(line, test_greedy_peers.ISN, test_greedy_peers.HOST, test_greedy_peers.Echo())
        factory = test_greedy_peers.Small(lambda: lower)
        accepting = deferToThread(lambda: Peer(listener.accept()[0], server=True))
        await TCP4ClientEndpoint(reactor, test_greedy_peers.HOST, listener.getsockname()[1]).connect(factory)
        with await accepting as asking:
            await opened
            await deferToThread(asking.ask_for_keys, test_greedy_peers.UPDATES)
            self.assertLess(factory.waiting, test_greedy_peers.AT_MOST)
        await factory.over
