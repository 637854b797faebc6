"""Tests of whom a transport's SOCKS port serves, asked by several users."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.support.transports import Echo, Transport, read, socks
from tests.unit.pluggable.test_local_users import CONNECT, NOBODY, request

needs_root = None if os.geteuid() == 0 else "only root can be another user"

ASK = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.settimeout(60)
try:
    link.sendall(bytes.fromhex(sys.argv[2]))
    print(link.recv(100).hex(), end="")
except ConnectionError:
    pass
"""
"""Asks a SOCKS port for something, and prints the answer."""


class SOCKSPortTests(SynchronousTestCase):
    """The SOCKS port of a real transport, asked by several users."""

    skip = needs_root

    def setUp(self) -> None:
        self.echo = Echo()
        self.addCleanup(self.echo.close)

    def ask(self, port: int, user: int) -> str:
        """The answer to all of tor's request, by a process of *user*; in hexadecimal digits."""
        arguments = [sys.executable, "-c", ASK, str(port), request(self.echo.port).hex()]
        return subprocess.run(arguments, cwd="/", user=user, capture_output=True, text=True, check=True).stdout

    def test_only_the_transports_user_is_served(self) -> None:
        """Nobody gets not one octet and no connection; the log says so in one line, with no address."""
        with Transport({"TOR_PT_CLIENT_TRANSPORTS": "plain"}) as transport:
            port = transport.port(transport.start())
            for _ in range(30):
                self.assertEqual(self.ask(port, NOBODY), "")
            link, reply = socks(port, self.echo.port)
            with link:
                self.assertEqual(reply, 0)
                link.sendall(b"word")
                self.assertEqual(read(link, 4), b"word")
            _, said, _ = transport.end()
        refusals = [line for line in said.splitlines() if "uid" in line]
        self.assertEqual(len(refusals), 1, said)
        self.assertIn(f"uid {NOBODY}", refusals[0])
        self.assertNotIn("127.0.0.1", refusals[0])

    def test_a_connection_that_is_left_at_once_asks_for_nothing(self) -> None:
        """It has no owner any more; the kernel says 0 for its user, which is not root."""
        with Transport({"TOR_PT_CLIENT_TRANSPORTS": "plain"}) as transport:
            port = transport.port(transport.start())
            with socket.create_server(("127.0.0.1", 0)) as bridge:
                arguments = ["127.0.0.1", str(port), request(bridge.getsockname()[1]).hex()]
                for _ in range(10):
                    subprocess.run([sys.executable, "-c", CONNECT, *arguments], cwd="/", user=NOBODY, check=True,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
                transport.end()
                bridge.setblocking(False)
                self.assertRaises(BlockingIOError, bridge.accept)

    def test_torknock_can_be_told_of_others(self) -> None:
        """A user by name; a name that this host does not know is refused at the start."""
        environment = {"TOR_PT_CLIENT_TRANSPORTS": "torknock"}
        name = pwd.getpwuid(NOBODY).pw_name
        for options, served in (([], False), (["--socks-user", name], True)):
            with Transport(environment, arguments=["-m", "torknock", "client", *options]) as transport:
                port = transport.port(transport.start())
                self.assertEqual(self.ask(port, NOBODY).startswith("0500"), served)
        with Transport(
            environment, arguments=["-m", "torknock", "client", "--socks-user", "no-such-user"]
        ) as transport:
            code, _, told = transport.end()
            self.assertEqual(code, 2)
            self.assertIn("no-such-user", told)
