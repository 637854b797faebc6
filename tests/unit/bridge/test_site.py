"""Tests of torknock.bridge.site_channel with a real nginx, and of channel `web` from end to end, on loopback."""

from __future__ import annotations

import hashlib
import os
import random
import re
import socket
import ssl
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pluggable.relay import Single
from tests.support.nginx import NAME, PAGE, Nginx
from tests.support.recording import Client
from tests.unit.channel import peer
from torknock.bridge import site_channel, site_tunnel
from torknock.bridge.site_channel import Site
from torknock.bridge.site_relay import strangers_link
from torknock.channel import tls_server
from torknock.channel.browser import Browser
from torknock.channel.hello import BrowserHello, OpenSSLHello
from torknock.channel.interfaces import ChannelFailed, NotProved, NotServed
from torknock.channel.shapes import Shapes
from torknock.channel.tls_server import ServerTLS
from torknock.channel.web import ClientWeb
from torknock.kernel.places import PLAIN_SOCKET, SITE_SOCKET, TUNNEL_SOCKET
from torknock.operate.site_lines import nginx_lines
from torknock.protocol.bridge_line import Channel, Line
from torknock.protocol.token import proof_key
from torknock.protocol.upgrade import write_request
from torknock.protocol.web_proof import Session, client_proof

reactor: Any = _reactor
HOST = "127.0.0.1"
ISN = 0x01020304
PATH = "AbCdEfGhIjKlMnOpQrSt_-"
LINE = Line(b"s" * 32, None, sni=NAME, channel=Channel.WEB, path=PATH)
LINE_KEY = proof_key(LINE.secret, LINE.bridge_name)
CERTIFICATE = peer.certificate(NAME)


class Echo(Protocol):
    """Says what it hears."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Accepting(Factory[Any]):
    """Gives each connection to *site*, as one that a token of *lines* has opened."""

    noisy = False

    def __init__(self, site: Site, lines: list[Line]) -> None:
        self.site, self.lines = site, lines
        self.upper: Callable[[], Any] = Echo
        self.proved: list[Deferred[int]] = []
        self.errors: list[type[Exception] | None] = []

    def buildProtocol(self, addr: object) -> Any:
        lower, proved = self.site.accept(self.lines, ISN, self.upper())
        self.proved.append(proved)
        proved.addErrback(self._failed)
        return lower

    def _failed(self, failure: Failure) -> None:
        self.errors.append(failure.trap(NotProved, NotServed))


class SiteCase(TestCase):
    """A site in a directory of its own; nginx runs once `start` is called."""

    timeout = 60

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="torknock-site-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.nginx = Nginx(nginx_lines(self.directory, PATH), CERTIFICATE, peer.KEY)
        self.addCleanup(self.nginx.close)
        self.failures = 0
        self.hello: Any = BrowserHello(Browser(random.shuffle))
        self.site = Site(reactor, self.directory, PATH, self.failed, Shapes(reactor, random.SystemRandom()))
        self.accepting = Accepting(self.site, [LINE])
        self.port = reactor.listenTCP(0, self.accepting, interface=HOST)
        self.addCleanup(self.end)
        self.made: list[Any] = []

    def failed(self) -> None:
        self.failures += 1

    async def end(self) -> None:
        for each in self.made:
            if each.lost is None:
                each.transport.abortConnection()
        await self.until(lambda: all(each.lost is not None for each in self.made))
        self.nginx.stop()
        await self.until(lambda: not reactor_connections(self.port))
        await maybeDeferred(self.port.stopListening)
        await self.site.stop()

    async def start(self) -> None:
        """nginx, and then the site: both are there."""
        await deferToThread(self.nginx.start, self.directory / SITE_SOCKET)
        self.site.start([NAME])
        await self.until(lambda: bool(self.site._keys.known([NAME])) and (self.directory / TUNNEL_SOCKET).exists())

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(reactor, 0.01)

    async def dial(self, line: Line = LINE, isn: int = ISN) -> Client:
        """A client that was carried. Raises `ChannelFailed`."""
        upper = Client()
        lower: Any
        lower, opened = ClientWeb(reactor, random.SystemRandom(), self.hello).open(line, isn, HOST, upper)
        await TCP4ClientEndpoint(reactor, HOST, self.port.getHost().port).connect(Single(lower))
        await opened
        self.made.append(upper)
        return upper

    def trusting(self, nginx: Nginx | None = None) -> None:
        """Clients trust the certificate of *nginx*, the site's unless another is given."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(str((nginx or self.nginx).certificate))
        context.set_verify(SSL.VERIFY_PEER)
        self.hello.trusting = context

    def get(self, *requests: bytes) -> list[bytes]:
        """The answers to *requests*, over one connection, of a visitor that trusts anything. It blocks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        answers = []
        where = (HOST, self.port.getHost().port)
        with socket.create_connection(where) as tcp, context.wrap_socket(tcp, server_hostname=NAME) as tls:
            for request in requests:
                tls.sendall(request)
                answers.append(whole_answer(tls))
        return answers


def whole_answer(tls: ssl.SSLSocket) -> bytes:
    """An answer with its body, the date taken out."""
    told = b""
    while b"\r\n\r\n" not in told:
        told += tls.recv(65_536)
    head, _, body = told.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    while length is not None and len(body) < int(length[1]):
        body += tls.recv(65_536)
    return re.sub(rb"Date: [^\r]*", b"", head) + b"\r\n\r\n" + body


def has_ended(made: socket.socket) -> bool:
    """Whether the peer of *made*, which does not block, has closed it."""
    try:
        return made.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def reactor_connections(port: Any) -> list[Any]:
    """The connections that *port* has accepted and that are still there."""
    return [each for each in reactor.getReaders() + reactor.getWriters() if getattr(each, "server", None) is port]


class SiteTests(SiteCase):
    """Clients, visitors, and everyone else."""

    async def test_a_client_is_carried(self) -> None:
        """In both directions, as much as it likes, to the very protocol that the bridge has for it."""
        await self.start()
        self.trusting()
        client = await self.dial()
        self.assertEqual(await self.accepting.proved[0], 0)
        sent = os.urandom(1 << 20)
        client.transport.write(sent)
        await self.until(lambda: len(client.received) == len(sent))
        self.assertEqual(hashlib.sha256(client.received).digest(), hashlib.sha256(sent).digest())
        self.assertEqual((self.site.tell_trouble(), self.failures), ("", 0))

    async def test_a_client_by_ipv6(self) -> None:
        """nginx says its address as the bridge does."""
        await self.start()
        self.trusting()
        other = reactor.listenTCP(0, self.accepting, interface="::1")
        upper = Client()
        lower: Any
        lower, opened = ClientWeb(reactor, random.SystemRandom(), self.hello).open(LINE, ISN, "::1", upper)
        await TCP6ClientEndpoint(reactor, "::1", other.getHost().port).connect(Single(lower))
        await opened
        upper.transport.abortConnection()
        await self.until(lambda: not reactor_connections(other))
        await maybeDeferred(other.stopListening)

    async def test_the_logs_of_nginx_have_no_clients_address(self) -> None:
        """Neither of a client that was carried nor of a visitor, of a page that is there or not."""
        await self.start()
        self.trusting()
        await self.dial()
        head = b" HTTP/1.1\r\nHost: " + NAME.encode() + b"\r\n\r\n"
        await deferToThread(self.get, b"GET /" + head, b"GET /none" + head)
        logs = [self.nginx.home / name for name in ("access.log", "error.log")]
        await self.until(lambda: "GET /none" in logs[0].read_text() and "GET /none" in logs[1].read_text())
        self.assertRegex(logs[0].read_text(), "(?m)^unix: - - .*GET / ")
        self.assertIn("client: unix:", logs[1].read_text())
        for log in logs:
            self.assertNotIn(HOST, log.read_text())

    async def test_a_pin_replaces_the_trust_store(self) -> None:
        """It is that of the site's key; another one is refused before a request is sent."""
        await self.start()
        for line in (replace(LINE, pin=peer.PIN), replace(LINE, pin=b"p" * 32)):
            self.accepting.lines = [line]
            if line.pin == peer.PIN:
                await self.dial(line)
                continue
            with self.assertRaises(ChannelFailed) as caught:
                await self.dial(line)
            self.assertIn("its key is not the one", caught.exception.reason)

    async def test_without_a_browser(self) -> None:
        """Where no browser's hello can be written OpenSSL's serves."""
        self.hello = OpenSSLHello()
        await self.start()
        self.trusting()
        await self.dial()

    async def test_which_of_two_lines(self) -> None:
        """A token that two lines share is the one's whose client proves it."""
        self.accepting.lines = [replace(LINE, secret=b"t" * 32), LINE]
        await self.start()
        self.trusting()
        await self.dial()
        self.assertEqual(await self.accepting.proved[0], 1)

    async def test_an_untrusted_certificate(self) -> None:
        """A client without a pin asks its system; nothing is requested."""
        await self.start()
        with self.assertRaises(ChannelFailed):
            await self.dial()

    async def test_each_wrong_proof_is_an_unknown_path(self) -> None:
        """Another secret, another SYN, none at all: what the site says is what it says of any other path."""
        await self.start()
        self.trusting()
        for line, isn in ((replace(LINE, secret=b"x" * 32), ISN), (LINE, ISN + 1)):
            with self.assertRaises(ChannelFailed) as caught:
                await self.dial(line, isn)
            self.assertIn("status 404", caught.exception.reason)
        unknown, known = await deferToThread(
            self.get,
            f"GET /{'x' * 22} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode(),
            f"GET /{PATH} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode(),
        )
        self.assertEqual(known, unknown)
        self.assertIn(b"404 Not Found", known)

    async def test_a_method_that_no_client_uses_is_answered_as_for_any_unknown_path(self) -> None:
        """Another one than GET, even with the header fields of a client's request."""
        await self.start()
        client = write_request(PATH, NAME, b"n" * 16, b"w" * 32, 150).decode("ascii")
        plain = f"GET /{PATH} HTTP/1.1\r\nHost: {NAME}\r\n\r\n"
        for method in ("OPTIONS", "PUT", "DELETE", "POST"):
            for request in (plain, client):
                asked = request.replace("GET", method)
                answers = await deferToThread(self.get, asked.replace(PATH, "x" * 22).encode(), asked.encode())
                self.assertEqual(*answers)

    async def test_an_entry_serves_once(self) -> None:
        """A right proof after a wrong one, on the same connection, is one request too many."""
        await self.start()
        session = Session(ISN, peer.PIN, b"n" * 16)
        right = write_request(PATH, NAME, session.nonce, client_proof(LINE_KEY, session), 150)
        wrong = write_request(PATH, NAME, session.nonce, b"w" * 32, 150)
        answers = await deferToThread(self.get, wrong, right)
        self.assertEqual([each.split(b"\r\n")[0] for each in answers], [b"HTTP/1.1 404 Not Found"] * 2)
        self.assertEqual(self.site._waiting, {})

    async def test_a_proof_that_comes_late_is_an_unknown_path(self) -> None:
        """A visit that was kept alive until a line was revoked opens nothing."""
        self.patch(site_channel, "PROOF_WITHIN", -1.0)
        await self.start()
        session = Session(ISN, peer.PIN, b"n" * 16)
        right = write_request(PATH, NAME, session.nonce, client_proof(LINE_KEY, session), 150)
        page, answer = await deferToThread(self.get, f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode(), right)
        self.assertTrue(page.endswith(PAGE))
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 "), answer)
        self.assertEqual(self.site._waiting, {})

    async def test_a_visitor_sees_the_site(self) -> None:
        """Its pages, on one connection after the other, and the bridge knows of no client."""
        await self.start()
        request = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
        first, second = await deferToThread(self.get, request, request)
        self.assertTrue(first.endswith(PAGE))
        self.assertEqual(first, second)
        await self.until(lambda: not self.site._waiting)

    async def test_a_man_in_the_middle(self) -> None:
        """With another key and a certificate that the client trusts it sees a web request, which the bridge refuses."""
        await self.start()
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        key = ec.generate_private_key(ec.SECP256R1())
        lines = f"""listen {HOST}:{port} ssl; listen unix:{self.directory}/middle.sock;
            location / {{
                proxy_pass https://{HOST}:{self.port.getHost().port}; proxy_ssl_server_name on; proxy_ssl_name {NAME};
                proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection upgrade;
            }}"""
        middle = Nginx(lines, peer.certificate(NAME, key=key), key)
        self.addCleanup(middle.close)
        await deferToThread(middle.start, self.directory / "middle.sock")
        self.trusting(middle)
        upper = Client()
        lower: Any
        lower, opened = ClientWeb(reactor, random.SystemRandom(), self.hello).open(LINE, ISN, HOST, upper)
        await TCP4ClientEndpoint(reactor, HOST, port).connect(Single(lower))
        with self.assertRaises(ChannelFailed) as caught:
            await opened
        self.assertIn("status 404", caught.exception.reason)
        self.assertIsNone(upper.transport)
        middle.stop()

    async def test_a_key_that_was_replaced(self) -> None:
        """A certificate that was renewed with another key costs one handshake, and no client."""
        await self.start()
        self.nginx.stop()
        (self.directory / SITE_SOCKET).unlink(missing_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        self.nginx.show(peer.certificate(NAME, key=key), key)
        await deferToThread(self.nginx.start, self.directory / SITE_SOCKET)
        self.patch(self.site._keys, "_asked", {})
        self.trusting()
        await self.dial()

    async def test_a_cookie_of_ten_kilobytes(self) -> None:
        """nginx refuses it; the site stays up."""
        await self.start()
        request = f"GET /{PATH} HTTP/1.1\r\nHost: {NAME}\r\nCookie: session={'A' * 10_000}\r\n\r\n".encode()
        (answer,) = await deferToThread(self.get, request)
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "))
        self.trusting()
        await self.dial()

    async def test_a_request_of_another_program(self) -> None:
        """Who connects to the tunnel's socket itself needs a proof, and a connection of the site's."""
        await self.start()
        session = Session(ISN, peer.PIN, b"n" * 16)
        request = write_request(PATH, NAME, session.nonce, client_proof(LINE_KEY, session), 150)
        for field in (b"", b"X-Peer: 192.0.2.7:5\r\n", b"X-Peer: :\r\n", b"\r\nmore"):
            told = await deferToThread(self.ask, request.removesuffix(b"\r\n") + field + b"\r\n")
            self.assertTrue(told.startswith(b"HTTP/1.1 404 "), told)

    async def test_programs_that_send_no_head_crowd_out_one_another_alone(self) -> None:
        """Above a limit the oldest is closed; a client is carried all the same."""
        self.patch(site_tunnel, "HEADLESS_AT_MOST", 3)
        await self.start()
        self.trusting()
        with ExitStack() as stack:
            idle = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(9)]
            for each in idle:
                each.setblocking(False)
                each.connect(str(self.directory / TUNNEL_SOCKET))
            await self.until(lambda: has_ended(idle[5]))
            await self.dial()
            self.assertEqual([has_ended(each) for each in idle], [True] * 7 + [False] * 2)
        await self.until(lambda: not self.site._tunnel._factory._headless)

    def ask(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(30)
            made.connect(str(self.directory / TUNNEL_SOCKET))
            made.sendall(request)
            return made.recv(65_536)


class StrangersTests(SiteCase):
    """Channel `tls` of a bridge that has a site."""

    async def visit(self, requests: list[bytes]) -> list[bytes]:
        """The answers to *requests* of a client without a proof, in TLS of the bridge's own."""
        self.patch(tls_server, "sends_tickets", lambda context: False)  # trial has loaded OpenSSL
        strangers = partial(strangers_link, reactor, self.directory)
        channel = ServerTLS(reactor, peer.PRIVATE_KEY, random.SystemRandom(), strangers=strangers)
        await maybeDeferred(self.port.stopListening)
        accepting = Accepting(self.site, [Line(b"s" * 32, peer.PIN)])
        accepting.site = channel  # type: ignore[assignment]  # a channel as well
        self.port = reactor.listenTCP(0, accepting, interface=HOST)
        return await deferToThread(self.get, *requests)

    async def test_a_stranger_meets_the_site(self) -> None:
        """Whoever says something else than a proof is answered by the web server, in place of silence."""
        await self.start()
        request = f"GET {{}} HTTP/1.1\r\nHost: {NAME}\r\n\r\n"
        pages = await self.visit([request.format("/").encode(), request.format("/none").encode()])
        self.assertTrue(pages[0].endswith(PAGE))
        self.assertIn(b"404 Not Found", pages[1])

    def test_a_web_server_that_ends_at_once_ends_the_strangers_connection(self) -> None:
        """No fault of the bridge's is told."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.directory / PLAIN_SOCKET))
            listening.listen()
            link = strangers_link(reactor, self.directory)
            listening.accept()[0].close()
        assert link is not None
        transport = StringTransport()
        link.makeConnection(transport)
        self.assertTrue(transport.disconnecting)

    async def test_half_a_proof_is_a_strangers(self) -> None:
        """A client's hello is one record."""
        await self.start()
        (page,) = await self.visit([b"\0" * 33])
        self.assertIn(b"400 Bad Request", page)


class FaultTests(SiteCase):
    """What is wrong with the site is said in one line, and nothing else comes of it."""

    async def test_the_web_server_is_down(self) -> None:
        """The client is reset, it is counted, and said until the next one is served."""
        self.site.start([])
        client = Client()
        await TCP4ClientEndpoint(reactor, HOST, self.port.getHost().port).connect(Single(client))
        await self.until(lambda: client.lost is not None)
        assert client.lost is not None
        self.assertTrue(client.lost.check(ConnectionLost))
        self.assertEqual(self.failures, 1)
        self.assertEqual(self.accepting.errors, [NotServed])  # no client is suspected
        self.assertIn(f"cannot connect to {self.directory / SITE_SOCKET}: No such file", self.site.tell_trouble())
        await deferToThread(self.nginx.start, self.directory / SITE_SOCKET)
        self.trusting()
        await self.dial()
        self.assertEqual(self.site.tell_trouble(), "")

    async def test_a_reset_is_passed_on(self) -> None:
        """And an orderly end as one, with all that came before it."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.directory / SITE_SOCKET))
            listening.listen()
            for reads, reason in ((True, ConnectionDone), (False, ConnectionLost)):
                client = Client()
                await TCP4ClientEndpoint(reactor, HOST, self.port.getHost().port).connect(Single(client))
                mine = client.transport.getHost()
                client.transport.write(b"hello")
                accepted, _ = await deferToThread(listening.accept)
                with accepted:
                    header = await deferToThread(accepted.recv, 1000, socket.MSG_PEEK)
                    while not header.endswith(b"hello"):
                        header = await deferToThread(accepted.recv, 1000, socket.MSG_PEEK)
                    if reads:
                        accepted.recv(1000)
                        accepted.sendall(b"bye")
                await self.until(lambda client=client: client.lost is not None)  # type: ignore[misc]
                assert client.lost is not None
                self.assertTrue(client.lost.check(reason), client.lost)
                self.assertEqual(client.received, b"bye" if reads else b"")
                wanted = f"PROXY TCP4 {HOST} {HOST} {mine.port} {self.port.getHost().port}\r\nhello"
                self.assertEqual(header, wanted.encode())

    async def test_two_bridges_on_one_site(self) -> None:
        """The second one says so, and takes over when the first has gone."""
        self.site.start([])
        other = Site(reactor, self.directory, PATH, self.failed, Shapes(reactor, random.SystemRandom()))
        other._looks.clock = clock = Clock()
        other.start([])
        self.assertIn("another bridge uses", other.tell_trouble())
        await self.site.stop()
        clock.advance(5)
        self.assertEqual(other.tell_trouble(), "")
        self.assertTrue((self.directory / TUNNEL_SOCKET).is_socket())
        await other.stop()
        self.assertFalse((self.directory / TUNNEL_SOCKET).exists())

    async def test_a_directory_that_is_not_there(self) -> None:
        """Or that this user cannot write to."""
        other = Site(reactor, self.directory / "none", PATH, self.failed, Shapes(reactor, random.SystemRandom()))
        other.start([])
        self.assertIn("cannot listen on", other.tell_trouble())
        await other.stop()

    async def test_a_socket_that_was_left_there(self) -> None:
        """By a bridge that was killed: it is replaced."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.directory / TUNNEL_SOCKET))
        await self.start()
        self.assertEqual(os.stat(self.directory / TUNNEL_SOCKET).st_mode & 0o777, 0o666)
        self.trusting()
        await self.dial()
