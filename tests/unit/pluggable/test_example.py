"""The example transport from end to end: by hand, and under a real tor."""

from __future__ import annotations

import hashlib
import hmac
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.transports import EXAMPLE, PATIENCE, Echo, Transport, nobody, read, socks

COOKIE = b"! Extended ORPort Auth Cookie !\x0a" + b"c" * 32


class ExtendedORPort:
    """An Extended ORPort that takes one client, and says back what it says after the introduction."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.told: dict[int, bytes] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        link, _ = self._listener.accept()
        with link:
            link.sendall(b"\x01\x00")
            nonce = read(link, 33)[1:]
            label = b"ExtORPort authentication server-to-client hash"
            link.sendall(hmac.digest(COOKIE[32:], label + nonce + b"s" * 32, "sha256") + b"s" * 32)
            label = b"ExtORPort authentication client-to-server hash"
            proved = read(link, 32) == hmac.digest(COOKIE[32:], label + nonce + b"s" * 32, "sha256")
            link.sendall(bytes([proved]))
            while 0 not in self.told:
                command, size = (int.from_bytes(read(link, 2), "big") for _ in range(2))
                self.told[command] = read(link, size)
            link.sendall(b"\x10\x00\x00\x00")
            while octets := link.recv(65536):
                link.sendall(octets)

    def close(self) -> None:
        """Wait for the client's end."""
        self._thread.join(PATIENCE)
        self._listener.close()


class ByHandTests(SynchronousTestCase):
    """Client and server, without tor."""

    def relay(self, server: Transport) -> None:
        """Send something through a client and *server*, and hear it come back."""
        bridge = server.port(server.start())
        with Transport({"TOR_PT_CLIENT_TRANSPORTS": "plain"}) as client:
            link, reply = socks(client.port(client.start()), bridge, b"unknown=1")
            self.assertEqual(reply[1], 0)
            sent = bytes(range(256)) * 20_000
            threading.Thread(target=link.sendall, args=(sent,), daemon=True).start()
            heard = read(link, len(sent))
            self.assertEqual(hashlib.sha256(heard).digest(), hashlib.sha256(sent).digest())
            link.close()

    def test_through_the_plain_port(self) -> None:
        """tor hears the client's octets and no others."""
        echo = Echo()
        self.addCleanup(echo.close)
        with Transport({"TOR_PT_SERVER_TRANSPORTS": "plain", "TOR_PT_ORPORT": f"127.0.0.1:{echo.port}"}) as server:
            self.relay(server)
            self.assertEqual(server.end()[0], 0)

    def test_through_the_extended_port(self) -> None:
        """tor hears who the client is, before all else."""
        tor = ExtendedORPort()
        with tempfile.NamedTemporaryFile() as cookie:
            cookie.write(COOKIE)
            cookie.flush()
            with Transport({
                "TOR_PT_SERVER_TRANSPORTS": "plain", "TOR_PT_ORPORT": "127.0.0.1:1",
                "TOR_PT_EXTENDED_SERVER_PORT": f"127.0.0.1:{tor.port}", "TOR_PT_AUTH_COOKIE_FILE": cookie.name,
            }) as server:  # fmt: skip
                self.relay(server)
                tor.close()
        self.assertEqual(tor.told[2], b"plain")
        self.assertRegex(tor.told[1], rb"^127\.0\.0\.1:[1-9][0-9]*$")


class UnderTorTests(SynchronousTestCase):
    """A real tor, without a network: nothing leaves the host."""

    if not shutil.which("tor"):
        skip = "tor is not installed"

    def tor(self, *lines: str) -> subprocess.Popen[str]:
        """A tor with these lines in its torrc, logging to stdout."""
        directory = tempfile.mkdtemp(prefix="tor-")
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        Path(directory, "torrc").write_text("\n".join([
            "TestingTorNetwork 1", "AssumeReachable 1", f"DataDirectory {directory}/data",
            "Log notice stdout",
            f"DirAuthority test orport=1 no-v2 v3ident={'A' * 40} 127.0.0.1:1 {'B' * 40}", *lines, "",
        ]))  # fmt: skip
        command = ["tor", "-f", f"{directory}/torrc", "--defaults-torrc", "/dev/null"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        hung = threading.Timer(PATIENCE, process.kill)
        hung.start()
        self.addCleanup(self.end, process, hung)
        return process

    def end(self, process: subprocess.Popen[str], hung: threading.Timer) -> None:
        process.send_signal(signal.SIGTERM)
        process.communicate()
        hung.cancel()

    def until(self, process: subprocess.Popen[str], wanted: str) -> re.Match[str]:
        """Read the log up to what is *wanted*; nothing before it may be a complaint about the transport."""
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(wanted, line):
                return found
            self.assertNotRegex(line, "(?i)managed proxy")
        self.fail(f"tor never said {wanted}")

    def test_a_bridge_and_its_client(self) -> None:
        """tor registers the server; a client's tor asks it for its descriptor, and has an answer."""
        plugin = f"exec {sys.executable} {EXAMPLE}"
        bridge = self.tor(
            "SocksPort 0", "BridgeRelay 1", "ORPort 127.0.0.1:auto", "ExtORPort auto", "Address 127.0.0.1",
            "ContactInfo nobody", "PublishServerDescriptor 0", f"ServerTransportPlugin plain {plugin}",
            f"ServerTransportListenAddr plain 127.0.0.1:{nobody()}",
        )  # fmt: skip
        port = self.until(bridge, r"Registered server transport 'plain' at '127\.0\.0\.1:([0-9]+)'")[1]
        client = self.tor(
            "SocksPort auto",
            "UseBridges 1",
            f"ClientTransportPlugin plain {plugin}",
            f"Bridge plain 127.0.0.1:{port} k=v",
        )
        self.until(client, "new bridge descriptor")
