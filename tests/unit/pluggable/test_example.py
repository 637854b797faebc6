"""The example transport from end to end: by hand, and under a real tor."""

from __future__ import annotations

import hashlib
import secrets
import socket
import sys
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pluggable.testing import (
    COOKIE_HEADER,
    TorExtendedORPort,
    client_environment,
    cookie_file,
    server_environment,
)
from tests.support.lone_tor import LoneTor
from tests.support.transports import EXAMPLE, PATIENCE, Echo, Transport, nobody, read, socks

NOWHERE = "127.0.0.1:1"


class ExtendedORPort:
    """An Extended ORPort that takes one client, and says back what it says after the handshake."""

    def __init__(self, data_directory: Path) -> None:
        cookie = secrets.token_bytes(32)
        cookie_file(data_directory).write_bytes(COOKIE_HEADER + cookie)
        self.tor = TorExtendedORPort(cookie, secrets.token_bytes(32))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        link, _ = self._listener.accept()
        with link:
            link.sendall(self.tor.greeting())
            while octets := link.recv(65536):
                link.sendall(octets if self.tor.accepted else self.tor.feed(octets))

    def close(self) -> None:
        """Wait for the client's end."""
        self._thread.join(PATIENCE)
        self._listener.close()


class ByHandTests(SynchronousTestCase):
    """Client and server, without tor."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def relay(self, server: Transport) -> None:
        """Send something through a client and *server*, and hear it come back."""
        bridge = server.port(server.start())
        with Transport(client_environment(["plain"], self.directory)) as client:
            link, reply = socks(client.port(client.start()), bridge, ("unknown", "1"))
            self.assertEqual(reply, 0)
            sent = bytes(range(256)) * 20_000
            threading.Thread(target=link.sendall, args=(sent,), daemon=True).start()
            heard = read(link, len(sent))
            self.assertEqual(hashlib.sha256(heard).digest(), hashlib.sha256(sent).digest())
            link.close()

    def test_octets_reach_the_plain_orport_and_nothing_else_does(self) -> None:
        """tor hears the client's octets and no others."""
        echo = Echo()
        self.addCleanup(echo.close)
        environ = server_environment({"plain": "127.0.0.1:0"}, self.directory, or_port=f"127.0.0.1:{echo.port}")
        with Transport(environ) as server:
            self.relay(server)
            self.assertEqual(server.end()[0], 0)

    def test_the_extended_orport_learns_who_the_client_is(self) -> None:
        """tor learns who the client is, before all else."""
        tor = ExtendedORPort(self.directory)
        extended = f"127.0.0.1:{tor.port}"
        bind = {"plain": "127.0.0.1:0"}
        environ = server_environment(bind, self.directory, or_port=NOWHERE, extended_or_port=extended)
        with Transport(environ) as server:
            self.relay(server)
            tor.close()
        self.assertEqual(tor.tor.transport, "plain")
        self.assertRegex(tor.tor.user_address or "", r"^127\.0\.0\.1:[1-9][0-9]*$")


class UnderTorTests(SynchronousTestCase):
    """A real tor, without a network: nothing leaves the host."""

    def test_a_client_of_one_tor_reaches_the_bridge_of_another(self) -> None:
        """tor registers the server; a client's tor asks it for its descriptor, and has an answer."""
        plugin = f"exec {sys.executable} {EXAMPLE}"
        bridge = LoneTor(
            "SocksPort 0", "BridgeRelay 1", "ORPort 127.0.0.1:auto", "ExtORPort auto", "Address 127.0.0.1",
            "ContactInfo nobody", "PublishServerDescriptor 0", f"ServerTransportPlugin plain {plugin}",
            f"ServerTransportListenAddr plain 127.0.0.1:{nobody()}",
        )  # fmt: skip
        with bridge:
            port = bridge.until(r"Registered server transport 'plain' at '127\.0\.0\.1:([0-9]+)'")[1]
            client = LoneTor(
                "SocksPort auto", "UseBridges 1", f"ClientTransportPlugin plain {plugin}",
                f"Bridge plain 127.0.0.1:{port} k=v",
            )  # fmt: skip
            with client:
                client.until("new bridge descriptor")
