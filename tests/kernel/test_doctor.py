"""Tests of `torknock doctor`: its judgement of firewalls against what packets really meet, and a real tor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import TORKNOCK
from tests.support.netns import Host, Lab
from tests.support.reactor import reactor
from tests.support.rulesets import DOCKER, FIREWALLD
from tests.support.tornet import Tor
from torknock.operate.check_bridge import Reply, approach


class ApproachTests(TestCase):
    """What a stranger is told by a host's firewall, as `torknock check` calls it."""

    async def test_refused_and_prohibited(self) -> None:
        """A closed port, and one whose firewall says so by ICMP, are told apart."""
        lab = Lab()
        self.addCleanup(lab.close)
        host, stranger = lab.host("bridge"), lab.host("client")
        host.run(["nft", "-f", "-"], FIREWALLD)
        for port, reply in ((443, Reply.REFUSED), (444, Reply.UNREACHABLE)):
            for address in (host.address, host.address6):
                with stranger.enter():
                    approaching = Deferred.fromCoroutine(approach(reactor, address, port))
                self.assertEqual((await approaching).reply, reply, (address, port))


class DoctorTests(SynchronousTestCase):
    """A tor of its own, on a host of its own."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.host = lab.host("bridge")
        directory = tempfile.TemporaryDirectory(prefix="tk", ignore_cleanup_errors=True)
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def bridge(self, torrc: str = "", or_port: str = "127.0.0.1:auto") -> Tor:
        bridge = Tor("bridge", self.host, self.directory / "bridge", (
            f"BridgeRelay 1\nPublishServerDescriptor 0\nAddress {self.host.address}\nORPort {or_port} IPv4Only\n"
            "AssumeReachable 1\nExtORPort auto\nSocksPort 0\n"
            f"Log notice stdout\nLog notice file {self.directory}/notices.log\n"
            f"ServerTransportPlugin torknock exec {TORKNOCK} server\n"
            f"ServerTransportListenAddr torknock 0.0.0.0:443\n{torrc}"
        ))  # fmt: skip
        self.addCleanup(bridge.stop)
        return bridge

    def doctor(self, *words: str, before: Sequence[str] = (), host: Host | None = None) -> dict[str, dict[str, str]]:
        """The findings by name."""
        control = ["--control", str(self.directory / "bridge" / "control")]
        running = (host or self.host).popen(
            [*before, TORKNOCK, "doctor", *words, "--json", *control],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = running.communicate()
        self.assertEqual(errors, "")
        told: dict[str, Any] = json.loads(said)
        self.assertEqual(told["status"], running.returncode)
        self.assertIsNone(re.search(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(?!:auto|:443)", self.without_remedies(said)), said)
        self.assertIsNone(re.search(r"[0-9A-F]{40}", said), said)
        findings = {finding["name"]: finding for finding in told["findings"]}
        for finding in findings.values():
            self.assertEqual(finding["remedy"] == "", finding["state"] == "ok", finding)
        return findings

    def without_remedies(self, said: str) -> str:
        return re.sub(r"tor 0\.[0-9.]+", "tor", re.sub(r'"remedy": "[^"]*"', "", said))

    def wrong(self, findings: dict[str, dict[str, str]]) -> set[str]:
        """What is not ok, but for what a tor without a network cannot have."""
        return {name for name, found in findings.items() if found["state"] == "not ok"} - {"bootstrap"}

    def ruleset(self) -> str:
        return self.host.run(["nft", "list", "ruleset"]).stdout

    def test_a_bridge_that_is_well(self) -> None:
        """Nothing is wrong once it has a line; looking changes nothing; a user who is not root learns what they may."""
        bridge = self.bridge()
        bridge.wait_log("Registered server transport")
        keyring = str(bridge.data_directory / "pt_state" / "torknock")
        self.assertEqual(self.wrong(self.doctor()), {"lines"})
        self.host.run([TORKNOCK, "line", "add", "alice", "--keyring", keyring, "--address", "192.0.2.7:443"])
        before = re.sub(r"expires \S+", "", self.host.run(["nft", "-t", "list", "ruleset"]).stdout)
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), set(), findings)
        self.assertEqual(findings["ORPort"]["state"], "ok")
        self.assertEqual(findings["registered"]["state"], "ok")
        self.assertIn("1 of 1", findings["lines"]["why"])
        self.assertIn("closed", findings["posture"]["why"])
        self.assertEqual(re.sub(r"expires \S+", "", self.host.run(["nft", "-t", "list", "ruleset"]).stdout), before)
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
        findings = self.doctor("bridge", before=nobody)
        self.assertEqual({findings[name]["state"] for name in ("tor", "nf_tables", "port")}, {"unknown"}, findings)

    def test_a_bridge_that_is_found(self) -> None:
        """Its ORPort is on a public address, though tor's configuration has a transport."""
        self.bridge(or_port="auto").wait_log("Registered server transport")
        findings = self.doctor("bridge")
        self.assertEqual(self.wrong(findings), {"lines", "ORPort"}, findings)
        self.assertIn("a scan finds", findings["ORPort"]["why"])

    def test_a_tor_that_is_not_set_up(self) -> None:
        """One thing is wanting, and one command does it: no list of what it would change."""
        tor = Tor("bridge", self.host, self.directory / "bridge", "SocksPort 127.0.0.1:auto\nLog notice stdout\n")
        self.addCleanup(tor.stop)
        tor.wait_log("Opened Control listener")
        for role, command in (("bridge", "torknock setup bridge"), ("client", "torknock setup client")):
            findings = self.doctor(role)
            self.assertEqual(self.wrong(findings), {"set-up"}, findings)
            self.assertIn(command, findings["set-up"]["remedy"])
            self.assertNotIn("torrc", json.dumps(findings))

    def test_a_persons_own_tor(self) -> None:
        """Not the one of this host: it is named, with whose it is; nothing is said of the host's."""
        own = f"{self.directory}/own"
        Path(own).mkdir(mode=0o777)
        self.directory.chmod(0o755)
        Path(own).chmod(0o777)
        Path(own, "torrc").touch()
        user = "daemon"
        plain = Tor("bridge", self.host, self.directory / "bridge", "SocksPort 127.0.0.1:auto\nLog notice stdout\n")
        self.addCleanup(plain.stop)
        plain.wait_log("Opened Control listener")
        findings = self.doctor("client", "--user", user)
        self.assertEqual(self.wrong(findings), {"tor", "group", "privilege"}, findings)
        self.assertIn(f"no tor of {user}'s runs", findings["tor"]["why"])
        theirs = self.host.popen(
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "tor", "-f", f"{own}/torrc",
             "--DataDirectory", f"{own}/tor", "--SocksPort", "127.0.0.1:auto", "--DisableNetwork", "1"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(theirs.terminate)
        self.assertTrue(wait_for(Path(f"{own}/tor").exists))
        findings = self.doctor("client", "--user", user)
        self.assertIn(f"{user}'s tor runs", findings["tor"]["why"])
        self.assertIn("group", findings)
        self.assertEqual(findings["group"]["state"], "not ok")
        self.assertIn(f"torknock setup client --user {user}", findings["group"]["remedy"])
        self.assertIn("torknock client", findings["process"]["why"])
        self.assertNotIn("UseBridges", findings)

    def test_a_firewall_in_the_way(self) -> None:
        """The port is dropped; then it is let in, and stands out among ports that are dropped."""
        self.bridge().wait_log("Registered server transport")
        self.host.run(["nft", "-f", "-"], (
            "table inet own { chain input { type filter hook input priority filter; policy drop; iif lo accept; }; }"
        ))  # fmt: skip
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"lines", "firewall", "posture"}, findings)
        self.host.run(["nft", "add", "rule", "inet", "own", "input", "tcp", "dport", "443", "accept"])
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"lines", "posture"}, findings)
        self.assertIn("posture=filtered", findings["posture"]["remedy"])

    def test_a_port_that_a_container_publishes(self) -> None:
        """Docker's rule came later: the doctor names it, and so does tor's log."""
        bridge = self.bridge()
        bridge.wait_log("Registered server transport")
        self.host.run(["iptables-nft-restore"], DOCKER)
        bridge.wait_log("address translation takes port 443 to another service.*-j DNAT")
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"lines", "bridge", "gate", "firewall", "tor's log"}, findings)
        self.assertIn("-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT", findings["firewall"]["remedy"])

    def test_a_port_that_another_program_serves(self) -> None:
        """The transport does not begin; who listens, and what tor's log says, are both told."""
        quiet = subprocess.DEVNULL
        self.host.popen([sys.executable, "-m", "http.server", "443"], stdout=quiet, stderr=quiet)
        bridge = self.bridge()
        bridge.wait_log("(?i)server method .*failed|another program listens")
        findings = self.doctor()
        self.assertLessEqual({"listener", "gate", "registered"}, self.wrong(findings), findings)
        self.assertIn("another program listens on port 443", findings["tor's log"]["why"])

    def test_a_damaged_line_and_a_proxy_of_a_client_are_said(self) -> None:
        """Its line is damaged and it has a proxy: both are said, and no part of the line."""
        client = Tor("bridge", self.host, self.directory / "bridge", (
            "SocksPort 127.0.0.1:auto\nUseBridges 1\nLog notice stdout\nSocks5Proxy 127.0.0.1:9\n"
            f"ClientTransportPlugin torknock exec {TORKNOCK} client\nBridge torknock 192.0.2.7:443 key=c2VjcmV0\n"
        ))  # fmt: skip
        self.addCleanup(client.stop)
        client.wait_log("Opened Control listener")
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"bridge lines", "proxy"}, findings)
        self.assertNotIn("c2VjcmV0", json.dumps(findings))
        self.assertIn("CAP_NET_ADMIN", findings["privilege"]["why"])

    def test_a_host_without_tor_is_said(self) -> None:
        """That is said; where nothing tells what this host has, it must be said."""
        findings = self.doctor("client")
        self.assertIn("tor", self.wrong(findings))
        asked = self.host.popen(
            [TORKNOCK, "doctor", "--control", "/nowhere", "--keyring", "/nowhere"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = asked.communicate()
        self.assertEqual((said, asked.returncode, errors.count("\n")), ("", 1, 1))
        self.assertIn("torknock doctor bridge", errors)
