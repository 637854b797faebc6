"""Tests of torknock.channel.bios, and of what a connection keeps in memory while it is idle and once it has ended."""

from __future__ import annotations

import ctypes
import gc
import re
import weakref
from typing import Any

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.channel import peer
from tests.unit.channel.test_tls import HOST, ISN, LINE, Chance, Upper
from tests.unit.channel.wire import Wire, accepted
from torknock.channel import tls_server
from torknock.channel.bios import renew
from torknock.channel.hello import Hello, OpenSSLHello
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import ServerTLS

BURST = bytes(100_000)
"""So much at once that OpenSSL's buffers grow to 140,000 octets."""


class _Heap(ctypes.Structure):
    """struct mallinfo2 (mallinfo(3))."""

    _fields_ = (
        ("before", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),
        ("between", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),
        ("after", ctypes.c_size_t * 2),
    )


def allotted() -> int:
    """Octets that the C library has given to this process and not got back."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Heap
    heap = mallinfo2()
    return int(heap.uordblks + heap.hblkhd)


class RenewTests(SynchronousTestCase):
    """`renew`, through pyOpenSSL's binding."""

    def test_the_binding_is_as_it_was(self) -> None:
        """What is used of pyOpenSSL that is not public: a function of this very type, and three attributes."""
        kind = str(SSL._ffi.typeof(SSL._lib.SSL_set_bio))  # type: ignore[attr-defined]
        self.assertEqual(re.sub(r"\s", "", kind), "<ctype'void(*)(SSL*,BIO*,BIO*)'>")
        connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        for name in ("_ssl", "_into_ssl", "_from_ssl"):
            self.assertTrue(hasattr(connection, name), name)

    def test_the_new_ones_are_used(self) -> None:
        """In both directions."""
        connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        connection.set_connect_state()
        renew(connection)
        self.assertRaises(SSL.WantReadError, connection.do_handshake)
        self.assertEqual(connection.bio_read(1), b"\x16")
        connection.bio_write(b"this is no TLS")
        self.assertRaises(SSL.Error, connection.do_handshake)


class MemoryTests(SynchronousTestCase):
    """Connections in memory, client and server."""

    idle_at_most = 60_000
    """Octets that an idle connection keeps, on average of its two ends."""

    def setUp(self) -> None:
        # trial has loaded OpenSSL before a test can say how.
        self.patch(tls_server, "sends_tickets", lambda context: False)
        clock = Clock()
        self.client = ClientTLS(clock, Chance(), self.make_hello())
        self.server = ServerTLS(clock, peer.PRIVATE_KEY, Chance())

    def make_hello(self) -> Hello:
        """Whose ClientHello the client has."""
        return OpenSSLHello()

    def carried(self) -> tuple[Wire, Upper, Upper]:
        """A connection that stands, and the protocols that it carries."""
        here, there = Upper(), Upper()
        lower, opened = self.client.open(LINE, ISN, HOST, here)
        wire = Wire(lower, accepted(self.server.accept([LINE], ISN, there)))
        wire.run()
        self.successResultOf(opened)
        return wire, here, there

    def test_an_idle_connection_is_small(self) -> None:
        """At most 60 KB at each end, whatever it has carried before; more where BIOs cannot be renewed."""
        self.exchange()
        before = allotted()
        connections = [self.exchange() for _ in range(20)]
        self.assertLess((allotted() - before) / len(connections) / 2, self.idle_at_most)

    def exchange(self) -> tuple[Wire, Upper, Upper]:
        """A connection that has carried `BURST` each way."""
        wire, here, there = self.carried()
        for speaker, listener in ((here, there), (there, here)):
            speaker.transport.write(BURST)
            wire.run()
            self.assertEqual(b"".join(listener.heard), BURST)
            listener.heard.clear()
        wire.client.said.clear()
        wire.server.said.clear()
        return wire, here, there

    def test_octets_that_wait_are_not_lost(self) -> None:
        """Neither those that OpenSSL has not decrypted when its connection is paused, nor those after them."""
        wire, here, there = self.carried()
        there.transport.pauseProducing()
        for _ in range(3):
            here.transport.write(BURST)
        wire.run()
        there.transport.write(BURST)  # while octets wait in the other direction
        wire.run()
        there.transport.resumeProducing()
        here.transport.write(b"the end")
        wire.run()
        self.assertEqual(b"".join(there.heard), 3 * BURST + b"the end")
        self.assertEqual(b"".join(here.heard), BURST)

    def test_an_ended_connection_leaves_nothing(self) -> None:
        """Without the garbage collector, which an idle process runs too rarely."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        left = self.ended()
        self.assertEqual([each() for each in left], [None] * 4)

    def ended(self) -> list[weakref.ref[Any]]:
        """What was TLS at both ends of a connection that has ended."""
        wire, here, there = self.exchange()
        lowers: list[Any] = [wire.client.protocol, wire.server.protocol]
        left = [weakref.ref(each) for lower in lowers for each in (lower, lower.engine.tls)]
        here.transport.loseConnection()
        wire.run()
        self.assertEqual((len(here.losses), len(there.losses)), (1, 1))
        for end in (wire.client, wire.server):  # as Twisted's transports do
            end.unregisterProducer()
            del end.protocol
        return left
