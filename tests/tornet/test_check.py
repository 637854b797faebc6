"""Tests of `torknock check LINE`: from a client's host, against bridges of a real tor."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support.capture import Capture, Control
from tests.support.netns import end
from tests.support.tornet import Tor, shared_network, until
from torknock.protocol.bridge_line import parse_bridge_line
from torknock.protocol.token import epoch_at, tokens

TORKNOCK = str(Path(sys.executable).with_name("torknock"))
HIDDEN = f"ServerTransportPlugin torknock exec {TORKNOCK} server\nServerTransportListenAddr torknock 0.0.0.0:443\n"
IN_A_HURRY = """
from torknock.client import budget; from torknock.client import rounds
budget.WINDOW, rounds.PAUSES, rounds.REST = 1.0, ((0.0, 0.0),) * 3, (0.0, 0.0)
from torknock.cli import torknock
torknock()
"""
"""Two minutes are a second."""
SLOW = (
    """
import time
right = time.time
time.time = lambda: right() - 900
"""
    + IN_A_HURRY
)
FILTERING = """
    table inet own {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state established accept
            iif lo accept
            tcp dport 443 accept
        }
    }
"""


@functools.cache
def hidden_bridge() -> Tor:
    """The bridge of all these tests, on a host of its own; the network ends it."""
    bridge = shared_network().bridge(HIDDEN, host="checked")
    bridge.wait_log("Registered server transport")
    return bridge


class CheckTests(SynchronousTestCase):
    """A bridge host, and a host from which it is looked at."""

    timeout = 120

    def setUp(self) -> None:
        self.network = shared_network()
        self.bridge = hidden_bridge()
        self.outside = self.network.lab.host("client")

    def torknock_line(self, *words: str) -> str:
        keyring = self.bridge.data_directory / "pt_state" / "torknock"
        return self.bridge.host.run([TORKNOCK, "line", *words, "--keyring", str(keyring)]).stdout

    def line(self, name: str, *options: str, at: str | None = None) -> str:
        return self.torknock_line("add", name, "--address", f"{at or self.bridge.host.address}:443", *options)

    def admitted(self, line: str) -> bool:
        """Whether a SYN with a token of *line* would be let in."""
        ours = parse_bridge_line(line).line
        listed = self.bridge.host.run(["nft", "list", "set", "inet", "torknock-443", "tokens"]).stdout
        return not set(map(str, tokens(ours.secret, ours.bridge_name, epoch_at(time.time()), ours.n))).isdisjoint(
            re.findall(r"\d+", listed)
        )

    def check(self, line: str, *options: str, torknock: Sequence[str] = (TORKNOCK,)) -> tuple[int, dict[str, Any]]:
        """The exit status, and the answers by name."""
        running = self.outside.popen(
            [*torknock, "check", "--json", *options, "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = running.communicate(line)
        self.assertEqual(errors, "", errors)
        told = json.loads(said)
        self.assertEqual(told["status"], running.returncode)
        for word in ("key=", *re.findall(r"\b(?:key|pin)=(\S+)", line)):
            self.assertNotIn(word, said)
        return running.returncode, {answer["name"]: answer for answer in told["findings"]}

    def states(self, answers: dict[str, Any]) -> dict[str, str]:
        return {name: answer["state"] for name, answer in answers.items()}

    def test_a_hidden_bridge(self) -> None:
        """Closed as its neighbours are, opened by every token line, and tor proves the fingerprint behind it."""
        for name, options, at in (
            ("alice", (), None),
            ("bob", (), f"[{self.bridge.host.address6}]"),
            ("carol", ("--channel", "raw"), None),
        ):
            status, answers = self.check(self.line(name, *options, at=at), "--as-stranger")
            with self.subTest(name):
                self.assertEqual(set(self.states(answers).values()), {"ok"}, answers)
                self.assertEqual(status, 0)
                self.assertIn("closed", answers["stranger"]["why"])
                self.assertIn("proves the fingerprint", answers["tor"]["why"])
                self.assertGreaterEqual(answers["line"]["ms"], 0)

    def test_a_filtered_bridge(self) -> None:
        """Silent as its neighbours are, and opened by lines of scheme knock, with integrity and without."""
        silent = self.network.bridge(HIDDEN + "ServerTransportOptions torknock posture=filtered\n", host="silent")
        self.addCleanup(silent.stop)
        silent.host.run(["nft", "-f", "-"], FILTERING)
        silent.wait_log("Registered server transport")
        self.bridge = silent
        for name, options in (("dave", ()), ("erin", ("--integrity", "64"))):
            status, answers = self.check(self.line(name, "--scheme", "knock", *options), "--as-stranger")
            self.assertEqual((status, set(self.states(answers).values())), (0, {"ok"}), answers)
            self.assertIn("does not answer", answers["stranger"]["why"])

    def test_only_the_knock_is_sent(self) -> None:
        """One SYN, with a token, to the bridge; the connection ends with FIN, as a client's does."""
        for name, options in (("leo", ()), ("mia", ("--channel", "raw"))):
            line = self.line(name, *options)
            ours = parse_bridge_line(line).line
            until(lambda: self.admitted(line), 10, lambda: "the new line is not admitted")  # noqa: B023
            epoch = epoch_at(time.time())
            with Capture(self.outside) as capture:
                status, answers = self.check(line)
                ended = capture.wait(lambda one: Control.FIN in one.control and one.source == self.outside.address)
            self.assertEqual((status, set(answers)), (0, {"line", "tor"}))
            sent = [seen.packet for seen in capture.seen if seen.packet and seen.packet.source == self.outside.address]
            [syn] = [packet for packet in sent if packet.opens]
            self.assertEqual((syn.destination, syn.destination_port), (self.bridge.host.address, 443))
            self.assertIn(syn.seq, (*ours.tokens(epoch), *ours.tokens(epoch + 1)))  # an epoch may have ended
            self.assertEqual({(one.destination, one.destination_port) for one in sent}, {(syn.destination, 443)})
            self.assertEqual([one for one in sent if Control.RST in one.control], [])
            self.assertEqual(ended.source_port, syn.source_port)

    def test_a_tor_that_anybody_finds(self) -> None:
        """Its ORPort on the bridge's port: it answers a stranger, and is not what the line names."""
        found = self.network.bridge(host="found", or_port="443")
        self.addCleanup(found.stop)
        found.wait_log("Opened OR listener")
        status, answers = self.check(
            self.line("frank", at=found.host.address), "--as-stranger", torknock=(sys.executable, "-c", IN_A_HURRY)
        )
        self.assertEqual(status, 1)
        self.assertEqual(self.states(answers), {
            "stranger": "not ok", "other ports": "ok", "line": "not ok", "tor": "unknown",
        })  # fmt: skip
        self.assertIn("not hidden", answers["stranger"]["why"])
        self.assertIn("other than the bridge answered", answers["line"]["why"])

    def test_a_port_that_stands_out(self) -> None:
        """The firewall lets SYNs to the bridge's port in and drops all others: the line opens, and a scan sees it."""
        self.bridge.host.run(["nft", "-f", "-"], FILTERING)
        self.addCleanup(self.bridge.host.run, ["nft", "delete", "table", "inet", "own"])
        status, answers = self.check(self.line("grace"), "--as-stranger")
        self.assertEqual(status, 1)
        self.assertEqual(self.states(answers), {
            "stranger": "ok", "other ports": "not ok", "line": "ok", "tor": "ok",
        })  # fmt: skip
        self.assertIn("posture=filtered", answers["other ports"]["remedy"])

    def test_another_tor_behind_it(self) -> None:
        """Tor proves who it is, so a fingerprint that is not its own is noticed; without one, that is said."""
        words = self.line("heidi").split()
        status, answers = self.check(" ".join([*words[:3], "0" * 40, *words[4:]]))
        self.assertEqual((status, answers["tor"]["state"]), (1, "not ok"), answers)
        self.assertIn("another", answers["tor"]["why"])
        status, answers = self.check(" ".join([*words[:3], *words[4:]]))
        self.assertEqual((status, answers["tor"]["state"]), (0, "ok"), answers)
        self.assertIn("not verified", answers["tor"]["why"])

    def test_a_revoked_line(self) -> None:
        """It does not open; the bridge is as hidden as before."""
        line = self.line("ivan")
        until(lambda: self.admitted(line), 30, lambda: "it is not admitted")  # else that may come later
        self.torknock_line("revoke", "ivan")
        until(lambda: not self.admitted(line), 30, lambda: "it is still admitted")
        status, answers = self.check(line, "--as-stranger", torknock=(sys.executable, "-c", IN_A_HURRY))
        self.assertEqual(status, 1)
        self.assertEqual(self.states(answers), {
            "stranger": "ok", "other ports": "ok", "line": "not ok", "tor": "unknown",
        })  # fmt: skip

    def test_a_wrong_clock(self) -> None:
        """The line opens all the same, and it is said which way the clock is wrong."""
        line = self.line("kim")
        until(lambda: self.admitted(line), 30, lambda: "it is not admitted")
        status, answers = self.check(line, torknock=(sys.executable, "-c", SLOW))
        self.assertEqual(status, 1)
        self.assertEqual(self.states(answers), {
            "line": "ok", "tor": "ok", "clock": "not ok",
        })  # fmt: skip
        self.assertRegex(answers["clock"]["why"], "about 1[0-9] minutes behind")

    def test_without_the_power_to_knock(self) -> None:
        """A stranger's view is had by anybody; what the line does is found out through the service, or not at all."""
        line, dial = self.line("judy"), f"{self.bridge.data_directory}/dial.sock"
        service = self.outside.popen([TORKNOCK, "dial", "--socket", dial], stderr=subprocess.DEVNULL)
        self.addCleanup(end, [service])
        until(lambda: Path(dial).is_socket(), 30, lambda: "no socket")
        for helper, status, opens in (
            ("/nowhere/dial.sock", 2, "unknown  line .*CAP_NET_ADMIN"),
            (dial, 0, "ok       line "),
        ):
            running = self.outside.popen(
                ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", TORKNOCK, "check", "line", line,
                 "--as-stranger", "--helper", helper],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            said, errors = running.communicate()
            self.assertEqual((running.returncode, errors), (status, ""), said)
            self.assertRegex(said, "(?m)^ok       stranger ")
            self.assertRegex(said, f"(?m)^{opens}")
