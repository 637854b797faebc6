"""Tests of `torknock gate` as it is run: another process, an unprivileged user with CAP_NET_ADMIN and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, POWERLESS, HiddenService, fresh, knock
from tests.support.loaded import MAY_LOAD, PACKAGES, ours, packages, recording
from tests.support.netns import Lab, end
from tests.support.rulesets import DOCKER
from torknock.protocol.bridge_line import Scheme
from torknock.protocol.door import Posture
from torknock.protocol.knock import isn as knock_isn
from torknock.service.access import EVERYWHERE, Entry

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

ROOT = Path(__file__).parent.parent.parent
SERVICE = 64_011
"""A user that this host does not know."""

PRIVILEGE = [
    "setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
]  # fmt: skip
"""What the unit leaves of the powers of root."""


class Case(SynchronousTestCase):
    """A bridge host where the service runs, and a client host."""

    skip = needs_root
    timeout = 120

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.directory.chmod(0o1777)
        self.path = self.directory / "gate.sock"
        self.access = self.directory / "gate.toml"
        self.allow(Entry(EVERYWHERE, 443, Posture.CLOSED, "root"), Entry(EVERYWHERE, 8443, Posture.CLOSED, "root"))
        self.service = self.serve()

    def torknock(self) -> list[str]:
        """The command that the service is a verb of."""
        return [sys.executable, "-m", "torknock"]

    def serve(self) -> subprocess.Popen[Any]:
        """The service, once it listens."""
        command = [*PRIVILEGE, *self.torknock(), "gate", "--socket", str(self.path), "--access", str(self.access)]
        with (self.directory / "log").open("a") as log:
            service = self.bridge.popen(command, cwd=ROOT, stderr=log)
        self.addCleanup(end, [service])
        self.assertTrue(wait_for(self.listens), self.log)
        return service

    def allow(self, *entries: Entry) -> None:
        """Have root's access list hold *entries*, from one moment to the next."""
        draft = self.access.with_suffix(".draft")
        draft.write_text("\n".join(map(str, entries)))
        draft.rename(self.access)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def listens(self) -> bool:
        try:
            self.asking().close()
        except OSError:
            return False
        return True

    def asking(self) -> socket.socket:
        """A connection to the service, of root."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.path))
        return connection

    def say(self, connection: socket.socket, line: str) -> str:
        """The service's answer to *line*; sockets that come with it are closed."""
        connection.sendall(line.encode("ascii") + b"\n")
        heard = b""
        while not heard.endswith(b"\n"):
            octets, descriptors, _, _ = socket.recv_fds(connection, 4096, 8)
            for each in descriptors:
                os.close(each)
            self.assertTrue(octets, heard)
            heard += octets
        return heard.decode("ascii").rstrip("\n")

    def tables(self) -> str:
        return self.bridge.run(["nft", "list", "tables"]).stdout


class GuardedCase(Case):
    """`torknock server` without any capability, whose port the service guards for the line of alice."""

    tokens = 64
    """That alice's line has in an epoch."""

    def setUp(self) -> None:
        super().setUp()
        self.hidden = HiddenService(self.bridge, helper=self.path)
        self.addCleanup(self.hidden.close)
        self.alice = self.hidden.line("alice", time.time(), n=self.tokens)
        self.fresh = fresh(self.alice)
        self.assertTrue(wait_for(self.opens), (self.hidden.said, self.log))

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, 443, next(self.fresh), 1.0) == GREETING


class BridgeTests(GuardedCase):
    """What a client and a stranger meet there."""

    def closed(self) -> bool:
        return knock(self.client, self.bridge.address, 443, None) == "refused"

    def test_a_token_opens_once_and_nothing_else_opens(self) -> None:
        """As with a gate of the bridge's own, over IPv4 and IPv6."""
        for address in (self.bridge.address, self.bridge.address6):
            token = next(self.fresh)
            self.assertEqual(knock(self.client, address, 443, None), "refused")
            self.assertEqual(knock(self.client, address, 443, token), GREETING)
            self.assertEqual(knock(self.client, address, 443, token), "refused")

    def test_who_dies_loses_his_gate(self) -> None:
        """At once: no table is left, and the port is closed."""
        self.hidden.process.kill()
        self.assertTrue(wait_for(lambda: "torknock" not in self.tables()))
        self.assertTrue(self.closed())

    def test_a_service_that_dies_leaves_the_port_closed_and_is_found_again(self) -> None:
        """A stranger is refused all the while, and with a new service a token opens again."""
        self.service.kill()
        self.service.wait()
        self.assertTrue(self.closed())
        self.serve()
        self.assertTrue(wait_for(self.opens), (self.hidden.said, self.log))
        self.assertTrue(self.closed())

    def test_a_service_that_is_ended_closes_its_gates(self) -> None:
        """SIGTERM: no table is left."""
        self.service.send_signal(signal.SIGTERM)
        self.assertEqual(self.service.wait(10), 0)
        self.assertNotIn("torknock", self.tables())
        self.assertTrue(self.closed())
        end([self.hidden.process])
        self.assertNotIn("Traceback", "\n".join(self.hidden.said))

    def test_address_translation_that_comes_later(self) -> None:
        """The rule is named in tor's log, once, and the port opens again when it is gone: nftables', and Docker's."""
        ours = (
            "table ip own { chain in { type nat hook prerouting priority dstnat\ntcp dport 443 dnat to 10.0.0.2\n}\n}"
        )
        undo = "*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"
        for load, rules, unload, undone, named in (
            (["nft", "-f", "-"], ours, ["nft", "delete", "table", "ip", "own"], None, "tcp dport 443 dnat to"),
            (["iptables-nft-restore"], DOCKER, ["iptables-nft-restore"], undo, "-j DNAT --to-destination"),
        ):
            self.bridge.run(load, rules)
            self.assertTrue(wait_for(lambda: named in self.told()), self.hidden.said)  # noqa: B023  at once
            self.assertTrue(wait_for(lambda: "tproxy" not in self.rules()), self.rules())  # it is said first, then done
            self.bridge.run(unload, undone)
            self.assertTrue(wait_for(self.opens), self.hidden.said)
            self.assertEqual(self.told().count(named), 1)
        self.assertNotIn("10.0.0.2", self.told())
        self.bridge.run(["nft", "-f", "-"], ours.replace("443", "444"))
        self.bridge.run(["nft", "-f", "-"], "table ip more { }")
        self.assertTrue(wait_for(self.opens), self.hidden.said)

    def told(self) -> str:
        """What tor's log has of the transport."""
        return "\n".join(self.hidden.said)

    def test_a_knock_is_judged_through_the_service(self) -> None:
        """The bridge is asked about each SYN; a knock opens once."""
        with self.hidden.keyring() as keyring:
            carol = keyring.add("carol", expires=None, now=time.time(), scheme=Scheme.KNOCK)
        self.bridge.sysctl("net.ipv4.tcp_timestamps", 0)
        self.client.sysctl("net.ipv4.tcp_timestamps", 0)
        address = socket.inet_aton(self.bridge.address)
        end([self.hidden.process])
        self.hidden.options["posture"] = "filtered"
        self.allow(Entry(EVERYWHERE, 443, Posture.FILTERED, "root"))
        self.hidden.start()
        isn = knock_isn(carol.line.secret, address, 443, 0)
        self.assertTrue(wait_for(lambda: "queue" in self.rules()), self.hidden.said)
        self.assertEqual(knock(self.client, self.bridge.address, 443, None, 0.5), "silence")
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, isn) == GREETING))
        self.assertEqual(knock(self.client, self.bridge.address, 443, isn, 0.5), "silence")
        self.assertTrue(wait_for(self.opens))

    def rules(self) -> str:
        return self.bridge.run(["nft", "list", "ruleset"]).stdout


class HostileTests(Case):
    """Peers that do not behave."""

    def test_bad_requests_are_refused_in_one_line(self) -> None:
        """Whatever is asked, the service stays up, and nothing is loaded."""
        for line in (
            "guard 0.0.0.0 443 open tokens", "guard 0.0.0.0 0 closed tokens", "guard example.org 443 closed tokens",
            "guard 0.0.0.0;flush 443 closed tokens", "guard fe80::1%lo 443 closed tokens", "admit 10 1",
            "withdraw 1", "intact", "refused", "nonsense", "guard 0.0.0.0 443 closed", "x" * 20_000,
        ):  # fmt: skip
            with self.subTest(line=line[:40]), self.asking() as connection:
                self.assertRegex(self.say(connection, line), r"^no bad [ -~]+$")
                self.assertEqual(connection.recv(1), b"")
        self.assertNotIn("torknock", self.tables())
        self.assertIsNone(self.service.poll())

    def test_requests_out_of_bounds_end_the_lease(self) -> None:
        """A peer that guards a door and then writes nonsense loses it; another's is untouched."""
        for line in (
            "admit 0 1", "admit 901 1", "admit 10 0", "admit 10 4294967296", "admit 10", "admit 10 1,2",
            "admit 10 " + " ".join(["1"] * 1025), "withdraw", "guard 0.0.0.0 444 closed tokens",
        ):  # fmt: skip
            with self.subTest(line=line[:40]), self.asking() as other, self.asking() as connection:
                self.assertTrue(wait_for(lambda: self.say(other, "guard 0.0.0.0 8443 closed tokens") == "ok"))
                self.assertEqual(self.say(connection, "guard 0.0.0.0 443 closed tokens"), "ok")
                self.assertRegex(self.say(connection, line), r"^no bad [ -~]+$")
                self.assertTrue(wait_for(lambda: "torknock-443" not in self.tables()))
                self.assertEqual(self.say(other, "intact"), "ok yes")
            self.assertTrue(wait_for(lambda: "torknock" not in self.tables()))

    def test_a_door_is_for_one(self) -> None:
        """The second is told so, and may try again when the first is gone."""
        with self.asking() as second:
            with self.asking() as first:
                self.assertEqual(self.say(first, "guard 0.0.0.0 443 closed tokens"), "ok")
                self.assertRegex(self.say(second, "guard 0.0.0.0 443 closed tokens"), "^no taken ")
            self.assertTrue(wait_for(lambda: self.say(second, "guard 0.0.0.0 443 closed tokens") == "ok"))

    def test_a_port_that_is_served_is_not_guarded(self) -> None:
        """Not even one below 1024, which this user could not try to bind; but as a decoy it is."""
        with self.bridge.enter():
            served = socket.create_server(("0.0.0.0", 22))  # noqa: S104  in a namespace
        with served, self.asking() as connection:
            self.allow(Entry(EVERYWHERE, 22, Posture.CLOSED, "root"))
            self.assertRegex(self.say(connection, "guard 0.0.0.0 22 closed tokens"), "^no failed another program")
            self.allow(Entry(EVERYWHERE, 22, Posture.DECOY, "root"))
            self.assertEqual(self.say(connection, "guard 0.0.0.0 22 decoy tokens"), "ok")

    def test_a_user_who_may_not_ask(self) -> None:
        """Is told so, and no more."""
        self.path.chmod(0o666)
        told = self.bridge.run(
            [
                "setpriv", "--reuid=64012", "--regid=64012", "--clear-groups", "/usr/bin/python3", "-c",
                f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(self.path)!r}); print(s.recv(99))",
            ]
        )  # fmt: skip
        self.assertIn("no refused", told.stdout)


class LoadedTests(Case):
    """What the process with CAP_NET_ADMIN consists of."""

    def torknock(self) -> list[str]:
        return recording(self.directory / "loaded")

    def test_a_bridge_that_was_served_loads_no_more_than_is_listed(self) -> None:
        """A door is guarded, judged, asked about and left: no import hides in a function."""
        self.allow(Entry(EVERYWHERE, 443, Posture.FILTERED, "root"))
        with self.asking() as connection:
            for line in ("guard 0.0.0.0 443 filtered judge", "admit 60 1 2 3", "withdraw 1", "intact", "leave"):
                self.assertRegex(self.say(connection, line), "^ok")
        self.service.terminate()
        self.service.wait(20)
        self.assertEqual(sorted(ours(self.directory / "loaded")), sorted(MAY_LOAD["gate"]))
        self.assertEqual(packages(self.directory / "loaded") - PACKAGES, set())


class LackTests(Case):
    """What a bridge says that gets no gate."""

    def test_without_a_service(self) -> None:
        """A posture that only the service has is refused with what to do."""
        nowhere = self.directory / "nowhere.sock"
        with HiddenService(self.bridge, options={"posture": "closed"}, helper=nowhere) as hidden:
            [told] = [line for line in hidden.said if line.startswith("SMETHOD-ERROR")]
        self.assertRegex(told, "CAP_NET_ADMIN.*nowhere.sock: No such file.*systemctl enable")

    def test_powerless_is_powerless(self) -> None:
        """These tests test what they say."""
        with self.assertRaises(Exception):  # noqa: B017  nft's refusal
            self.bridge.run([*POWERLESS, "nft", "list", "ruleset"])
