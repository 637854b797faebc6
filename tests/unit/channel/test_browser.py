"""Tests of torknock.channel.browser: its ClientHello, taken from our own client, and what is its alone."""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from tests.support.ja4 import ClientHello, client_hello, is_grease
from tests.unit.channel import peer
from tests.unit.channel.test_tls import HOST, ISN, LINE, Scene
from tests.unit.channel.wire import Wire
from torknock.channel.browser import Browser, BrowserTLS, profile_date
from torknock.channel.hello import BrowserHello, OpenSSLHello
from torknock.channel.interfaces import CannotOpen
from torknock.protocol.bridge_line import Line

NAMED = replace(LINE, sni="a.example")
PAGE = "t13d1517h2_8daaf6152771_cb7bf5808d99"
"""JA4 of Debian's Chromium 156 for a page, as captured."""

ADDRESS = "t13i1516h2_8daaf6152771_cb7bf5808d99"
"""The same at an IP address, which has no SNI."""

WEB_SOCKET = "t13d1516h1_8daaf6152771_5b37b36a67c0"
"""The same for a WebSocket: HTTP/1.1 alone, and no ALPS."""

X25519MLKEM768, X25519 = 0x11EC, 0x1D
ENCRYPTED_CLIENT_HELLO, TRUST_ANCHORS = 0xFE0D, 0xCA34
CONNECTIONS = 20


def browser() -> Browser:
    """A browser that was just started."""
    return Browser(random.SystemRandom().shuffle)


def key_logs() -> int:
    """How many key logs this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += "memfd:exporter" in os.readlink(f"/proc/self/fd/{name}")
    return found


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Take all that this process may open, meanwhile."""
    null = os.open(os.devnull, os.O_RDONLY)
    taken = [null]
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(null))
        yield
    finally:
        for each in taken:
            os.close(each)


def shaken(client: BrowserTLS, context: SSL.Context) -> SSL.Connection:
    """The server's end of *client*, with *context*, when the handshake of both is done."""
    server = SSL.Connection(context, None)
    server.set_accept_state()
    while True:
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
            break
        server.bio_write(client.bio_read(1 << 16))
        with contextlib.suppress(SSL.WantReadError):
            server.do_handshake()
        client.bio_write(server.bio_read(1 << 16))
    server.bio_write(client.bio_read(1 << 16))
    server.do_handshake()
    return server


class HelloTests(Scene):
    """The first record of `torknock client`."""

    def make_hello(self) -> BrowserHello:
        return BrowserHello(browser())

    def said(self, line: Line) -> ClientHello:
        """What our client for *line* says first to one that does not answer."""
        lower, opened = self.client.open(line, ISN, HOST, self.here)
        wire = Wire(lower, Protocol())
        opened.cancel()
        self.failureResultOf(opened)
        return client_hello(b"".join(wire.client.said))

    def test_it_is_a_browsers(self) -> None:
        """With a name and at an address, each time."""
        for line, expected in ((NAMED, PAGE), (LINE, ADDRESS)):
            hellos = [self.said(line) for _ in range(CONNECTIONS)]
            self.assertEqual([hello.ja4() for hello in hellos], [expected] * CONNECTIONS)
            for hello in hellos:
                self.assertEqual(hello.alpn, [b"h2", b"http/1.1"])
                self.assertEqual([g for g in hello.key_shares if not is_grease(g)], [X25519MLKEM768, X25519])
                self.assertIn(ENCRYPTED_CLIENT_HELLO, hello.extensions)

    def test_no_two_are_the_same(self) -> None:
        """Extensions come in another order each time, and GREASE is drawn anew; the trust anchors' order stays."""
        hellos = [self.said(NAMED) for _ in range(CONNECTIONS)]
        orders = {tuple(each for each in hello.extensions if not is_grease(each)) for hello in hellos}
        self.assertEqual(len(orders), CONNECTIONS)
        for numbers in ([hello.ciphers for hello in hellos], [hello.extensions for hello in hellos]):
            drawn = [[each for each in these if is_grease(each)] for these in numbers]
            self.assertNotIn([], drawn)
            self.assertGreater(len(set(map(tuple, drawn))), 1)
        self.assertEqual(len({hello.bodies[TRUST_ANCHORS] for hello in hellos}), 1)

    def test_another_process_has_another_order_of_trust_anchors(self) -> None:
        """As another process of the browser has."""
        found = set()
        for _ in range(3):
            tls = browser().connection("a.example")
            self.assertRaises(SSL.WantReadError, tls.do_handshake)
            found.add(client_hello(tls.bio_read(1 << 16)).bodies[TRUST_ANCHORS])
        self.assertEqual((len(found), len({bytes(sorted(each)) for each in found})), (3, 1))

    def test_a_web_socket(self) -> None:
        """What offers HTTP/1.1 alone is a browser's too."""
        tls = browser().connection("a.example", ("http/1.1",))
        self.assertRaises(SSL.WantReadError, tls.do_handshake)
        hello = client_hello(tls.bio_read(1 << 16))
        self.assertEqual((hello.ja4(), hello.alpn), (WEB_SOCKET, [b"http/1.1"]))

    def test_openssl_is_recognised(self) -> None:
        """Which is why there is a warning."""
        tls = OpenSSLHello().begin(NAMED)
        self.assertRaises(SSL.WantReadError, tls.do_handshake)
        self.assertNotIn(client_hello(tls.bio_read(1 << 16)).ja4(), (PAGE, ADDRESS, WEB_SOCKET))


class ExporterTests(SynchronousTestCase):
    """What a proof is bound to, at both ends."""

    def test_both_ends_export_the_same(self) -> None:
        """For each cipher suite that a browser offers, as OpenSSL does; and for each context another."""
        for suite in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"):
            context = peer.server_context(peer.certificate(HOST))
            context.set_tls13_ciphersuites(suite.encode())
            client = browser().connection(None)
            server = shaken(client, context)
            self.assertEqual(server.get_cipher_name(), suite)
            label, bound = b"EXPORTER-torknock-1", struct.pack("!I", ISN)
            exported = client.export_keying_material(label, 32, bound)
            self.assertEqual(exported, server.export_keying_material(label, 32, bound))
            self.assertNotEqual(exported, server.export_keying_material(label, 32, b"other"))
            self.assertRaises(SSL.Error, client.export_keying_material, label, 32, bound)  # the secret is gone

    def test_a_server_that_wants_another_key(self) -> None:
        """A group of which the first hello had no key: there is a second hello (RFC 8446 §4.1.4), and the same ends."""
        context = peer.server_context(peer.certificate(HOST))
        context.set_tmp_ecdh(ec.SECP384R1())
        client = browser().connection(None)
        server = shaken(client, context)
        self.assertEqual(server.get_group_name(), "secp384r1")
        exported = client.export_keying_material(b"EXPORTER-torknock-1", 32, b"")
        self.assertEqual(exported, server.export_keying_material(b"EXPORTER-torknock-1", 32, b""))

    def test_no_key_log_stays_open(self) -> None:
        """Not of a connection that stands, nor of one that failed, nor of one that was dropped."""
        here = browser()
        gc.collect()  # what other tests have left
        self.assertEqual(key_logs(), 0)
        standing = here.connection(None)
        self.assertEqual(key_logs(), 2)  # ours, and the library's
        server = shaken(standing, peer.server_context(peer.certificate(HOST)))
        self.assertEqual(key_logs(), 0)
        standing.sendall(b"still here")
        server.bio_write(standing.bio_read(1 << 16))
        self.assertEqual(server.recv(100), b"still here")
        failing = here.connection(None)
        failing.bio_write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertRaises(SSL.Error, failing.do_handshake)
        self.assertEqual(key_logs(), 0)
        dropped = here.connection(None)
        del dropped
        self.assertEqual(key_logs(), 0)

    def test_descriptors_are_given_back(self) -> None:
        """However many connections there were."""
        here = browser()
        context = peer.server_context(peer.certificate(HOST))
        shaken(here.connection(None), context)
        gc.collect()  # what other tests have left
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            shaken(here.connection(None), context)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class LimitTests(Scene):
    """A process that may open no more files."""

    def make_hello(self) -> BrowserHello:
        return BrowserHello(browser())

    def test_it_says_so(self) -> None:
        """Another host is not blamed for it, and nothing is said in another TLS."""
        with no_descriptors():
            error = self.assertRaises(CannotOpen, self.client.open, LINE, ISN, HOST, self.here)
        self.assertIn("limit of open files", str(error))

    def test_a_handshake_that_fails_is_the_servers_fault(self) -> None:
        """It is told as at any other time, and what was logged is gone with the connection."""
        gc.collect()  # what other tests have left
        failing = browser().connection(None)
        failing.bio_write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with no_descriptors():
            self.assertRaises(SSL.Error, failing.do_handshake)
        del failing
        gc.collect()
        self.assertEqual(key_logs(), 0)


class ProfileTests(SynchronousTestCase):
    """How old the profile is."""

    def test_it_has_a_date(self) -> None:
        """The month in which it was released."""
        found = profile_date()
        assert found is not None
        self.assertGreaterEqual(found, datetime.date(2026, 10, 1))
        self.assertEqual(found.day, 1)
