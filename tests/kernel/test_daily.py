"""Tests of a running bridge's daily life: what it counts, who is told, and whom a revocation ends."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, HiddenService, connected, knock
from tests.support.netns import Lab, end
from tests.support.packets import flood
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import epoch_at, tokens

TORKNOCK = Path(sys.executable).with_name("torknock")
METRICS = "127.0.0.1:9142"
PORT = 443

needs_root = None if os.geteuid() == 0 else "network namespaces need root"


class DailyTests(SynchronousTestCase):
    """A bridge with two lines, and a client host."""

    skip = needs_root
    timeout = 120

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.service = HiddenService(self.bridge, options={"metrics": METRICS})
        self.addCleanup(self.service.close)
        self.keyring = self.service.state / "torknock"
        self.fresh: dict[str, Iterator[int]] = {}
        for name in ("alice", "bob"):
            self.fresh[name] = self.tokens(self.service.line(name, time.time()).line)
            self.assertTrue(wait_for(partial(self.opens, name)), self.service.said)

    def tokens(self, line: Line) -> Iterator[int]:
        for ahead in (0, 1, -1):
            yield from tokens(line.secret, line.bridge_name, epoch_at(time.time()) + ahead, line.n)

    def opens(self, name: str) -> bool:
        return knock(self.client, self.bridge.address, PORT, next(self.fresh[name])) == GREETING

    def connection(self, name: str) -> socket.socket:
        """A connection of the line *name*, which was greeted."""
        opened = connected(self.client, self.bridge.address, PORT, next(self.fresh[name]))
        self.addCleanup(opened.close)
        self.assertEqual(opened.recv(len(GREETING)), GREETING)
        return opened

    def torknock(self, *words: str) -> str:
        return self.bridge.run([str(TORKNOCK), *words, "--keyring", str(self.keyring)]).stdout

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.torknock("status", "--json"))
        return told

    def ended(self, connection: socket.socket) -> bool:
        """Whether *connection* was cut."""
        connection.settimeout(5)
        try:
            connection.sendall(b"more")
            return connection.recv(4) != b"more"
        except ConnectionResetError:
            return True

    def test_a_revocation_cuts_or_does_not(self) -> None:
        """The line's own connections alone, and later too."""
        alices, bobs = [self.connection("alice") for _ in range(2)], self.connection("bob")
        self.torknock("line", "revoke", "alice")
        self.assertTrue(wait_for(lambda: self.status()["lines"] == 1))
        self.assertFalse(self.ended(alices[0]))
        self.torknock("line", "revoke", "alice", "--cut")
        self.assertTrue(wait_for(lambda: self.status()["connections"] == 1))
        self.assertTrue(all(map(self.ended, alices)))
        self.assertFalse(self.ended(bobs))
        self.assertIn("2 connections of a revoked line are cut", "\n".join(self.service.said))

    def test_status_counts_and_names_no_address(self) -> None:
        """What was let in and refused, who is in, how far a hit is."""
        before = self.status()
        self.connection("alice")
        sent = flood(self.client, self.bridge.address, PORT, 0.3)
        self.assertTrue(wait_for(lambda: self.status()["refused"] >= before["refused"] + sent // 2), "one in 64 counts")
        after = self.status()
        self.assertEqual(after["let_in"] - before["let_in"], 1)
        self.assertEqual((after["port"], after["posture"], after["lines"]), (PORT, "closed", 2))
        self.assertEqual([line["name"] for line in after["in_use"]], ["alice"])
        self.assertEqual(after["syns_to_a_hit"], 2**32 // after["tokens"])
        table = self.torknock("status", "--once")
        self.assertRegex(table, r"connections +1 now")
        for text in (table, json.dumps(after), self.metrics(), "\n".join(self.service.said)):
            self.assertNotIn(self.client.address, text)

    def metrics(self) -> str:
        """What Prometheus reads, on the bridge's host."""
        host, _, port = METRICS.rpartition(":")
        with self.bridge.enter():
            asking = socket.create_connection((host, int(port)), 5)
        with asking, asking.makefile("rwb") as stream:
            stream.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            stream.flush()
            return stream.read().decode()

    def test_prometheus_has_the_counts(self) -> None:
        """The status' own, without the lines' names; nobody outside the host is answered."""
        self.connection("alice")
        told, status = self.metrics(), self.status()
        found = dict(re.findall(r"^torknock_(\w+)(?:\{[^}]*\})? (\S+)$", told, re.MULTILINE))
        self.assertEqual(float(found["connections"]), status["connections"])
        self.assertEqual(float(found["syns_let_in_total"]), status["let_in"])
        self.assertNotIn("alice", told)
        outside = int(METRICS.rpartition(":")[2])
        self.assertEqual(knock(self.client, self.bridge.address, outside, None), "refused")

    def test_what_was_used_is_written_down(self) -> None:
        """The day and the number, when the bridge ends at the latest; nothing finer."""
        self.connection("alice")
        end([self.service.process])
        listed = {line["name"]: line for line in json.loads(self.torknock("line", "list", "--json"))}
        today = time.strftime("%Y-%m-%d", time.gmtime())
        self.assertEqual((listed["alice"]["connections"], listed["alice"]["last_used"]), (2, today))
        self.assertEqual(listed["bob"]["connections"], 1)
