"""Tests of torknock.operate.site_pages and `torknock site learn`, with a web server that speaks TLS on loopback."""

from __future__ import annotations

import gzip
import http.server
import random
import ssl
import tempfile
import threading
from pathlib import Path

from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.channel import peer
from torknock.channel.shapes import EXCHANGES
from torknock.cli import torknock
from torknock.operate.site_pages import SiteNotLearned, learn
from torknock.protocol.exchanges import Site, parse_site

STYLE, SCRIPT, IMAGE = b"s" * 2000, b"j" * 30_000, b"i" * 500
PAGE = b"""<!doctype html><link rel=stylesheet href="/style.css"><script src="a.js?v=1"></script>
<img src="b.png#x"><img src="/b.png"><img src="https://elsewhere.example/c.png"><img src="caf\xc3\xa9.png"><p>Text
"""
FILES = {"/": PAGE, "/style.css": STYLE, "/a.js?v=1": SCRIPT, "/b.png": IMAGE, "/caf%C3%A9.png": IMAGE}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `FILES`; the page is compressed."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, int, int]]
    """Path, client's port and octets of each request."""

    def do_GET(self) -> None:
        size = len(self.requestline) + 2 + sum(len(f"{name}: {value}") + 2 for name, value in self.headers.items()) + 2
        self.asked.append((self.path, self.client_address[1], size))
        body = FILES.get(self.path)
        self.send_response(200 if body is not None else 404)
        if self.path == "/":
            body = gzip.compress(PAGE)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Does not say what its clients break off."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class LearnTests(SynchronousTestCase):
    """A site of one page with a style sheet, a script and images."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.trusted = self.directory / "trusted.pem"
        self.trusted.write_bytes(peer.certificate("localhost").public_bytes(Encoding.PEM))
        key = self.directory / "key.pem"
        key.write_bytes(peer.KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.asked: list[tuple[str, int, int]] = []
        handler = type("Ours", (Handler,), {"asked": self.asked})
        server = Server(("127.0.0.1", 0), handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.trusted, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"https://localhost:{server.server_address[1]}/"

    def learn(self, *urls: str) -> Site:
        return learn(urls or [self.url], random.Random(1), str(self.trusted))  # noqa: S311

    def test_what_a_page_is_made_of_is_loaded_once_each_over_several_connections(self) -> None:
        """The page and its parts on the same site, and no other; every size is what was on the wire."""
        site = self.learn()
        self.assertEqual(
            [path for path, _, _ in self.asked], ["/", "/style.css", "/a.js?v=1", "/b.png", "/caf%C3%A9.png"]
        )
        exchanges = [one for page in site.pages for one in page]
        self.assertEqual(sorted(one.request for one in exchanges), sorted(size for _, _, size in self.asked))
        self.assertEqual(len(site.pages), len({port for _, port, _ in self.asked}))
        for body in (STYLE, SCRIPT, IMAGE):
            self.assertTrue(any(len(body) < sum(one.answers) < len(body) + 300 for one in exchanges))

    def test_the_command_writes_a_file_that_transports_read(self) -> None:
        """And says how much it has learned."""
        output = self.directory / EXCHANGES
        arguments = ["site", "learn", self.url, "--ca", str(self.trusted), "--output", str(output)]
        done = CliRunner().invoke(torknock, arguments)
        self.assertEqual((done.exit_code, done.output), (0, f"{output}: 5 exchanges on 4 connections\n"))
        self.assertEqual(sum(map(len, parse_site(output.read_text()).pages)), 5)

    def test_what_cannot_be_loaded_is_named(self) -> None:
        """With its cause; an address that is none, a page that is not there, a certificate that is not trusted."""
        port = self.url.split(":")[2]
        for url, why in (
            ("http://localhost/", "is no address of a page"), ("localhost", "is no address of a page"),
            (f"{self.url}none", "answers 404"), (f"https://127.0.0.1:{port}", "TLS failed"),
            ("https://localhost:1/", "cannot be loaded"),
        ):  # fmt: skip
            with self.assertRaises(SiteNotLearned) as caught:
                self.learn(url)
            self.assertIn(why, str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
