"""Tests of `pluggable.local_users`: whose a TCP connection over loopback is, as the kernel says."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pluggable import local_users
from pluggable.errors import MethodError
from pluggable.local_users import ConnectionOwners, LocalUsers
from tests.support.transports import PATIENCE

NOBODY = 65534

CONNECT = """
import contextlib, socket, sys
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
if sys.argv[3:]:
    with contextlib.suppress(ConnectionError):
        link.sendall(bytes.fromhex(sys.argv[3]))
else:
    sys.stdin.read()
"""
"""Connects, says what it is told, and ends: at once if it says something, else with its stdin."""


def request(port: int) -> bytes:
    """All that tor says to a SOCKS port to have 127.0.0.1:*port* dialled, at once."""
    return b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big")


class ConnectionOwnersTests(SynchronousTestCase):
    """What the kernel says of connections, over IPv4 and IPv6."""

    def setUp(self) -> None:
        self.owners = ConnectionOwners()
        self.addCleanup(self.owners.close)

    def listener(self, host: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, 0), family=family)
        self.addCleanup(listening.close)
        listening.settimeout(PATIENCE)
        return listening

    def connected(self, listening: socket.socket, user: int | None, *said: str, host: str = "") -> Any:
        """A process of *user* that has connected to *listening*, which has accepted it."""
        where, port = listening.getsockname()[:2]
        child = subprocess.Popen(
            [sys.executable, "-c", CONNECT, host or where, str(port), *said],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", user=user,
        )  # fmt: skip
        accepted, _ = listening.accept()
        self.addCleanup(accepted.close)
        self.addCleanup(child.communicate)
        return accepted, child

    def owner(self, accepted: socket.socket) -> int | None:
        return self.owners.owner(accepted.getpeername()[:2], accepted.getsockname()[:2])

    def test_a_connection_is_of_the_user_who_made_it(self) -> None:
        """Not of the one who accepted it."""
        users = [os.geteuid()] + ([NOBODY] if os.geteuid() == 0 else [])
        for host in ("127.0.0.1", "::1"):
            for user in users:
                accepted, _ = self.connected(self.listener(host), user if len(users) > 1 else None)
                self.assertEqual(self.owner(accepted), user, host)

    def test_the_owner_of_ipv4_over_a_socket_of_ipv6_is_found(self) -> None:
        """As `connect` to ::ffff:127.0.0.1 makes it."""
        accepted, _ = self.connected(self.listener("127.0.0.1"), None, host="::ffff:127.0.0.1")
        self.assertEqual(self.owner(accepted), os.geteuid())

    def test_a_connection_that_nobody_has_is_nobodys(self) -> None:
        """One whose process has gone would look like root's; nor is one that never was a listener's."""
        listening = self.listener("127.0.0.1")
        accepted, child = self.connected(listening, None, "00")
        child.wait()
        self.assertIsNone(self.owner(accepted))
        host, port = listening.getsockname()
        self.assertIsNone(self.owners.owner((host, port), (host, 1)))

    def test_each_of_many_questions_has_its_own_answer(self) -> None:
        """No answer to an earlier question is taken for one to a later."""
        accepted, _ = self.connected(self.listener("127.0.0.1"), None)
        for _ in range(100):
            self.assertEqual(self.owner(accepted), os.geteuid())
            self.assertIsNone(self.owners.owner(("127.0.0.1", 1), ("127.0.0.1", 2)))


class LocalUsersTests(SynchronousTestCase):
    """Who is let in, and what is said of others."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.users = LocalUsers(self.clock, [1234], self.told.append)
        self.addCleanup(self.users.close)
        self.says: int | OSError | None = None
        self.patch(self.users._owners, "owner", self.owner)

    def owner(self, *_: object) -> int | None:
        if isinstance(self.says, OSError):
            raise self.says
        return self.says

    def lets_in(self, says: int | OSError | None) -> bool:
        self.says = says
        here, there = IPv4Address("TCP", "127.0.0.1", 1), IPv4Address("TCP", "127.0.0.1", 2)
        return self.users.may_connect(there, here)

    def test_only_the_named_users_may_connect(self) -> None:
        """Our own user, root, and who is named; nobody else, and nobody of whom the kernel does not say."""
        for uid in (os.geteuid(), 0, 1234):
            self.assertTrue(self.lets_in(uid))
        self.assertEqual(self.told, [])
        for says in (4321, None, OSError(errno.ENOBUFS, "no buffers")):
            self.assertFalse(self.lets_in(says))

    def test_a_refusal_is_logged_once_a_minute(self) -> None:
        """With how many there were, why, and no address."""
        self.assertFalse(self.lets_in(4321))
        for _ in range(50):
            self.assertFalse(self.lets_in(None))
        self.assertEqual(len(self.told), 1)
        self.assertIn("uid 4321", self.told[0])
        self.clock.advance(60)
        self.assertFalse(self.lets_in(OSError(errno.ENOBUFS, "no buffers")))
        self.assertEqual(len(self.told), 2)
        self.assertIn("50 more", self.told[1])
        self.assertNotIn("127.0.0.1", "".join(self.told))

    def test_ipv6_may_connect_and_what_is_no_tcp_may_not(self) -> None:
        """IPv6 is asked for as it is; what is no TCP connection at all is nobody's."""
        self.says = 0
        self.assertTrue(self.users.may_connect(IPv6Address("TCP", "::1", 2), IPv6Address("TCP", "::1", 1)))
        self.assertFalse(self.users.may_connect(None, None))

    def test_a_kernel_that_does_not_answer_keeps_the_transport_from_starting(self) -> None:
        """There is no transport then, and tor is told why."""

        def unable(*_: object) -> None:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

        self.patch(local_users, "ConnectionOwners", unable)
        with self.assertRaises(MethodError) as caught:
            LocalUsers(self.clock, [], self.told.append)
        self.assertIn("Protocol not supported", str(caught.exception))
