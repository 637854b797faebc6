"""Tests of `torknock check path` and `torknock reflect`: across networks that rewrite, and one that does not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.bridge import TORKNOCK
from tests.support.middlebox import Middlebox, shift_sequence_numbers, shift_timestamps, take_timestamps_away
from tests.support.netns import Lab, end

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

WITHOUT = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


class PathTests(SynchronousTestCase):
    """A reflector on the bridge, and a client who asks it, with a network between them."""

    skip = needs_root

    def setUp(self) -> None:
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
        port = self.reflect("[::]:4430")
        self.places = [f"{self.bridge.address}:{port}", f"[{self.bridge.address6}]:{port}"]

    def reflect(self, where: str) -> int:
        """Start a reflector that has no privilege; its port."""
        command = [*WITHOUT, TORKNOCK, "reflect", "--listen", where]
        reflector = self.bridge.popen(command, stdout=subprocess.PIPE, text=True)
        self.addCleanup(end, [reflector])
        assert reflector.stdout is not None
        said = reflector.stdout.readline()
        self.assertIn("an open port that anyone can find", said)
        found = re.search(r":(\d+), ", said)
        assert found is not None, said
        return int(found[1])

    def check(self, place: str, before: Sequence[str] = ()) -> tuple[int, dict[str, Any]]:
        """The exit status and what was said, with what stands *before* the command."""
        running = self.client.popen(
            [*before, TORKNOCK, "check", "path", "--json", place],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = running.communicate()
        self.assertEqual(errors, "")
        return running.returncode, json.loads(said)

    def test_both_numbers_arrive_on_a_path_that_rewrites_nothing(self) -> None:
        """Both numbers arrive, with each kind of timestamp and with none."""
        for timestamps in (1, 2, 0):
            self.client.sysctl("net.ipv4.tcp_timestamps", timestamps)
            for place in self.places:
                status, found = self.check(place)
                self.assertEqual((status, found["verdict"]), (0, "untouched"), found)
                self.assertEqual(found["isn_sent"], found["isn_seen"])
                self.assert_same_tsval(found)
                self.assertEqual(found["tsval_seen"] is None, timestamps == 0)

    def test_no_timestamp_is_foreseen(self) -> None:
        """What is known after the SYN has left is enough: no SYN is late, however busy the host is."""
        self.client.sysctl("net.ipv4.tcp_fastopen", 0)
        status, found = self.check(self.places[0])
        self.assertEqual((status, found["verdict"]), (0, "untouched"), found)

    def assert_same_tsval(self, found: dict[str, Any]) -> None:
        """The one that was seen left no later than the one that was read afterwards, and not much earlier."""
        if found["tsval_sent"] is None:
            self.assertIsNone(found["tsval_seen"])
        else:
            self.assertIn((found["tsval_sent"] - found["tsval_seen"]) % 2**32, range(found["tsval_late_ms"] + 1), found)

    def test_sequence_numbers_rewritten(self) -> None:
        """By something that knows its business: connections stand."""
        with Middlebox(self.lab, self.client, self.bridge, shift_sequence_numbers):
            for place in self.places:
                status, found = self.check(place)
                self.assertEqual((status, found["verdict"]), (1, "rewritten"), found)
                self.assertIn("rewrites sequence numbers:", found["sentence"])
                self.assertEqual((found["isn_seen"] - found["isn_sent"]) % 2**32, 0x12345678)
                self.assert_same_tsval(found)

    def test_timestamps_that_are_rewritten_are_found_out(self) -> None:
        """Changed, or taken away: with the privilege and without it that is found out."""
        for change, words in ((shift_timestamps, "timestamps"), (take_timestamps_away, "takes them away")):
            with Middlebox(self.lab, self.client, self.bridge, change):
                for place in self.places:
                    for before in ((), WITHOUT):
                        status, found = self.check(place, before)
                        self.assertEqual((status, found["verdict"]), (1, "rewritten"), found)
                        self.assertIn(words, found["sentence"])
                        self.assertNotIn("sequence", found["sentence"])

    def test_no_connection_stands_where_the_syn_alone_is_rewritten(self) -> None:
        """The SYN alone is rewritten: no connection stands, and the sentence says what that may be."""
        self.lab.hub.run(["nft", "-f", "-"], """
            table inet middle {
                chain forward {
                    type filter hook forward priority filter;
                    iifname "to-client" tcp flags & (syn | ack) == syn tcp sequence set 7
                }
            }
        """)  # fmt: skip
        status, found = self.check(self.places[0])
        self.assertEqual((status, found["verdict"]), (2, "unknown"), found)
        self.assertIn("breaks the handshake by rewriting sequence numbers", found["sentence"])

    def test_without_the_capability(self) -> None:
        """Timestamps are compared; what cannot be found out is said."""
        for place in self.places:
            status, found = self.check(place, WITHOUT)
            self.assertEqual((status, found["verdict"]), (2, "unknown"), found)
            self.assertIn("CAP_NET_ADMIN", found["sentence"])

    def test_a_closed_port_is_no_verdict(self) -> None:
        """A closed port is no verdict."""
        for before in ((), WITHOUT):
            status, found = self.check(f"{self.bridge.address}:9", before)
            self.assertEqual((status, found["verdict"]), (2, "unknown"))
            self.assertIn("refused", found["sentence"])

    def test_somebody_else_there(self) -> None:
        """Who is no reflector, talkative or silent, gives no verdict."""
        for says in (b"SSH-2.0-OpenSSH_9.2p1\r\n", b"x" * 100_000, b"", b"torknock reflect isn=4294967296 tsval=0\n"):
            with self.bridge.enter():
                listener = socket.create_server((self.bridge.address, 0))
            threading.Thread(target=self.says, args=(listener, says), daemon=True).start()
            running = self.client.popen(
                [TORKNOCK, "check", "path", f"{self.bridge.address}:{listener.getsockname()[1]}"],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            said, _ = running.communicate()
            with listener:
                listener.shutdown(socket.SHUT_RDWR)
            self.assertEqual((running.returncode, said.count("\n")), (2, 1))
            self.assertIn("no reflector", said)

    def says(self, listener: socket.socket, octets: bytes) -> None:
        """Say *octets* to everyone who connects."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(ConnectionError):
                    connection.sendall(octets)
