"""Tests of what a transport can do with the sockets that `torknock gate` hands over, beside what they are for."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import connected
from torknock.protocol.door import Posture
from torknock.service.access import EVERYWHERE, Entry
from torknock.service.sources_table import sources_table

USER = pwd.getpwnam("nobody")
"""A user without any privilege, as tor's."""

TOR = [
    "setpriv", f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", "--clear-groups", "--no-new-privs",
    sys.executable, "-c",
]  # fmt: skip

FOREIGN = {socket.AF_INET: "8.8.8.8", socket.AF_INET6: "2001:4860:4860::8888"}

REBIND = """
import ctypes, json, socket, sys
held, foreign, ways, to = socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:5]
held.setblocking(False)
def attempt(step, *given):
    try:
        step(*given)
    except OSError:
        pass
if "shutdown" in ways:
    attempt(held.shutdown, socket.SHUT_RDWR)
else:
    attempt(ctypes.CDLL(None).connect, held.fileno(), bytes(28), 28)
attempt(held.bind, (foreign, 4444))
source = held.getsockname()[0]
if "plain" in ways:
    held.setsockopt(*((socket.SOL_IP, 19, 0) if held.family == socket.AF_INET else (socket.IPPROTO_IPV6, 75, 0)))
if "listen" in ways:
    attempt(held.listen)
elif "fast" in ways:
    attempt(held.sendto, b"data", socket.MSG_FASTOPEN, (to, 4445))
else:
    attempt(held.connect, (to, 4445))
print(json.dumps(source))
"""
"""Take a socket from what it is for, bind it to a foreign address, and use it; prints the address it had then."""

COUNT = f"""
table inet count {{
    counter foreign {{ }}
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        ip saddr {FOREIGN[socket.AF_INET]} counter name "foreign"
        ip6 saddr {FOREIGN[socket.AF_INET6]} counter name "foreign"
    }}
}}
"""
"""On the way: what the bridge sends from foreign addresses."""


@contextlib.contextmanager
def as_tor() -> Iterator[None]:
    """What is opened within this is tor's user's."""
    os.setegid(USER.pw_gid)
    os.seteuid(USER.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class PowersTests(Case):
    """The service guards a port for a process that was taken over."""

    def setUp(self) -> None:
        super().setUp()
        self.allow(
            Entry(EVERYWHERE, 443, Posture.CLOSED, USER.pw_name), Entry(EVERYWHERE, 8443, Posture.CLOSED, "root")
        )
        self.lab.hub.run(["nft", "-f", "-"], COUNT)

    def foreign(self) -> int:
        """How many segments from foreign addresses have left the bridge."""
        told = self.lab.hub.run(["nft", "list", "counter", "inet", "count", "foreign"]).stdout
        found = re.search(r"packets (\d+)", told)
        assert found is not None
        return int(found[1])

    def leaves(self) -> bool:
        return self.foreign() > 0

    def source(self, held: socket.socket, ways: str) -> str:
        """The address of *held* after an attempt to have it a foreign one."""
        number = held.fileno()
        to = self.client.address6 if held.family == socket.AF_INET6 else self.client.address
        command = [*TOR, REBIND, str(number), FOREIGN[held.family], ways, to]
        told = self.bridge.popen(command, stdout=subprocess.PIPE, pass_fds=(number,)).communicate(timeout=20)[0]
        return str(json.loads(told))

    def handed(self, port: int = 443) -> tuple[socket.socket, list[socket.socket]]:
        """The lease, and the listeners that came with it: tor's user's, but for port 8443, which is root's."""
        self.path.chmod(0o666)
        with as_tor() if port == 443 else contextlib.nullcontext():
            lease = self.asking()
        self.addCleanup(lease.close)
        lease.sendall(f"guard 0.0.0.0 {port} closed tokens\n".encode("ascii"))
        said, listening = b"", []
        while not said.endswith(b"\n"):
            octets, descriptors, _, _ = socket.recv_fds(lease, 100, 8)
            self.assertTrue(octets, self.log)
            said += octets
            listening += [socket.socket(fileno=each) for each in descriptors]
        for each in listening:
            self.addCleanup(each.close)
        self.assertEqual((said, len(listening)), (b"ok\n", 2))
        return lease, listening

    def accepted(self, listening: socket.socket, token: int, port: int = 443) -> tuple[socket.socket, socket.socket]:
        """The two ends of a connection that *token* has opened; first the one of tor's user."""
        address = self.bridge.address6 if listening.family == socket.AF_INET6 else self.bridge.address
        far = connected(self.client, address, port, token)
        self.addCleanup(far.close)
        listening.setblocking(True)
        with as_tor() if port == 443 else contextlib.nullcontext():
            near = listening.accept()[0]
        self.addCleanup(near.close)
        return near, far

    def test_a_listener_cannot_be_bound_to_a_foreign_address(self) -> None:
        """Whichever way it is taken from what it is for, over IPv4 and IPv6: it stays on loopback."""
        for way in ("shutdown", "disconnect", "listen"):
            lease, listening = self.handed()
            for each in listening:
                with self.subTest(way=way, family=each.family):
                    self.assertIn(self.source(each, way), ("127.0.0.1", "::1", "0.0.0.0", "::"))  # noqa: S104  of none
            lease.close()
            self.assertTrue(wait_for(lambda: "torknock-443" not in self.tables()))
        self.assertEqual(self.foreign(), 0)

    def test_what_an_accepted_socket_sends_from_a_foreign_address_is_dropped(self) -> None:
        """The kernel binds it, and nothing leaves; before that it serves, over IPv4 and IPv6."""
        lease, listening = self.handed()
        self.assertEqual(self.say(lease, "admit 60 1 2 3 4 5 6 7 8"), "ok")
        tokens = iter(range(1, 9))
        for each in listening:
            for ways in ("disconnect", "disconnect plain", "disconnect listen", "disconnect fast"):
                with self.subTest(ways=ways, family=each.family):
                    near, far = self.accepted(each, next(tokens))
                    near.sendall(b"served")
                    self.assertEqual(far.recv(6), b"served")
                    self.assertEqual(self.source(near, ways), FOREIGN[each.family])
                    near.close()
        self.assertEqual(self.foreign(), 0)

    def test_root_is_not_kept_from_it(self) -> None:
        """These tests test what they say: segments of a user without such a table are seen."""
        lease, listening = self.handed(8443)
        self.assertEqual(self.say(lease, "admit 60 1 2"), "ok")
        for token, each in enumerate(listening, 1):
            near, _far = self.accepted(each, token, 8443)
            self.source(near, "disconnect")
            self.assertTrue(wait_for(self.leaves, 3), each.family)
            self.lab.hub.run(["nft", "reset", "counter", "inet", "count", "foreign"])

    def test_the_rule_outlives_the_gate_and_the_service(self) -> None:
        """A socket that was accepted lives longer than either; a flush by another program is repaired in a second."""
        lease, listening = self.handed()
        self.assertEqual(self.say(lease, "admit 60 1 2 3"), "ok")
        held = [self.accepted(listening[0], token)[0] for token in (1, 2, 3)]
        lease.close()
        self.assertTrue(wait_for(lambda: "torknock-443" not in self.tables()))
        self.assertEqual(self.source(held[0], "disconnect"), FOREIGN[socket.AF_INET])
        self.service.kill()
        self.service.wait()
        self.assertEqual(self.source(held[1], "disconnect"), FOREIGN[socket.AF_INET])
        self.service = self.serve()
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(lambda: sources_table(USER.pw_uid) in self.tables(), 3), self.log)
        self.assertEqual(self.source(held[2], "disconnect"), FOREIGN[socket.AF_INET])
        self.assertEqual(self.foreign(), 0)
