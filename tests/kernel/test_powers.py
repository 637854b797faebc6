"""Tests of what a transport can do with the sockets that `torknock gate` hands over, beside what they are for."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import connected

TOR = ["setpriv", "--reuid=64012", "--regid=64012", "--clear-groups", "--no-new-privs", sys.executable, "-c"]
"""A user without any privilege, as tor's."""

FOREIGN = {socket.AF_INET: "8.8.8.8", socket.AF_INET6: "2001:4860:4860::8888"}

REBIND = """
import ctypes, json, socket, sys
held, foreign, way, to = socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:5]
held.setblocking(False)
try:
    if way == "shutdown":
        held.shutdown(socket.SHUT_RDWR)
    else:
        ctypes.CDLL(None).connect(held.fileno(), bytes(28), 28)
    held.bind((foreign, 4444))
except OSError:
    pass
try:
    if way == "listen":
        held.listen()
    else:
        held.connect((to, 4445))
except OSError:
    pass
print(json.dumps(held.getsockname()[0]))
"""
"""Take a socket from what it is for, bind it to a foreign address, and use it; prints the address it has then."""


class PowersTests(Case):
    """The service guards a port for a process that was taken over."""

    def source(self, held: socket.socket, way: str) -> str:
        """The address of *held* after an attempt to have it a foreign one."""
        number = held.fileno()
        to = self.client.address6 if held.family == socket.AF_INET6 else self.client.address
        command = [*TOR, REBIND, str(number), FOREIGN[held.family], way, to]
        told = self.bridge.popen(command, stdout=subprocess.PIPE, pass_fds=(number,)).communicate(timeout=20)[0]
        return str(json.loads(told))

    def handed(self) -> tuple[socket.socket, list[socket.socket]]:
        """The lease, and the listeners that came with it."""
        lease = self.asking()
        self.addCleanup(lease.close)
        lease.sendall(b"guard 0.0.0.0 443 closed tokens\n")
        said, listening = b"", []
        while not said.endswith(b"\n"):
            octets, descriptors, _, _ = socket.recv_fds(lease, 100, 8)
            said += octets
            listening += [socket.socket(fileno=each) for each in descriptors]
        for each in listening:
            self.addCleanup(each.close)
        self.assertEqual((said, len(listening)), (b"ok\n", 2))
        return lease, listening

    def test_a_listener_cannot_be_bound_to_a_foreign_address(self) -> None:
        """Whichever way it is taken from what it is for, over IPv4 and IPv6: it stays on loopback."""
        for way in ("shutdown", "disconnect", "listen"):
            lease, listening = self.handed()
            for each in listening:
                with self.subTest(way=way, family=each.family):
                    self.assertIn(self.source(each, way), ("127.0.0.1", "::1", "0.0.0.0", "::"))  # noqa: S104  of none
            lease.close()
            self.assertTrue(wait_for(lambda: "torknock" not in self.tables()))

    def test_an_accepted_socket_can(self) -> None:
        """README tells operators so: a transport that was taken over can send from foreign addresses."""
        lease, [listening, _] = self.handed()
        self.assertEqual(self.say(lease, "admit 60 12345"), "ok")
        with connected(self.client, self.bridge.address, 443, 12345):
            listening.setblocking(True)
            accepted, _address = listening.accept()
            with accepted:
                self.assertEqual(self.source(accepted, "disconnect"), FOREIGN[socket.AF_INET])
