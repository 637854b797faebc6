"""Tests of the postures with real packets: what strangers see, and that a token opens all the same."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, TORKNOCK, HiddenService, knock
from tests.support.netns import Lab, end
from tests.support.packets import MATRIX, flood, probe
from torknock.isn.knock import isn as knock_isn
from torknock.isn.token import epoch_at, tokens

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

DROPPED = "table inet drops { chain c { type filter hook input priority filter; tcp dport 444 drop; }; }\n"
"""A port that a firewall drops, beside the hidden one."""


class Case(SynchronousTestCase):
    """A bridge host, a client host, and a bridge in some posture."""

    skip = needs_root
    timeout = 180
    posture = "filtered"

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.addresses = (self.bridge.address, self.bridge.address6)

    def hide(self) -> None:
        """Start the bridge, and wait until its line opens."""
        self.service = HiddenService(self.bridge, options={"posture": self.posture})
        self.addCleanup(self.service.close)
        alice = self.service.line("alice", time.time()).line
        self.fresh = iter(
            [
                token
                for epoch in (0, 1, -1)
                for token in tokens(alice.secret, alice.bridge_name, epoch_at(time.time()) + epoch, alice.n)
            ]
        )
        self.assertTrue(wait_for(self.opens), self.service.said)

    def opens(self, address: str | None = None) -> bool:
        return knock(self.client, address or self.bridge.address, 443, next(self.fresh), 1.0) == GREETING


class FilteredTests(Case):
    """Silence, to every segment that belongs to no accepted connection."""

    def setUp(self) -> None:
        super().setUp()
        self.bridge.run(["nft", "-f", "-"], DROPPED)
        self.hide()

    def scanned(self, *how: str) -> set[str]:
        """What nmap says of the hidden port and of the dropped one."""
        said = self.client.run(["nmap", "-n", "-Pn", "--max-retries", "0", "-p", "443,444", *how]).stdout
        states = re.findall(r"^44[34]/tcp (\S+)", said, re.MULTILINE)
        self.assertEqual(len(states), 2, said)
        return set(states)

    def test_every_scan_sees_a_port_that_a_firewall_drops(self) -> None:
        """nmap's seven kinds, over both families."""
        for scan in ("-sS", "-sA", "-sF", "-sN", "-sX", "-sW", "-sM"):
            for more in ((self.bridge.address,), ("-6", self.bridge.address6)):
                with self.subTest(scan=scan, more=more):
                    self.assertEqual(len(self.scanned(scan, *more)), 1)
        self.assertEqual(self.scanned("-sS", self.bridge.address), {"filtered"})

    def test_no_probe_is_answered(self) -> None:
        """Whatever its control bits and options are, also past the limit of misses."""
        for _ in range(2):
            for address in self.addresses:
                for name, how in MATRIX.items():
                    with self.subTest(name=name, address=address):
                        self.assertIsNone(probe(self.client, address, 443, **{"patience": 0.1, **how}))
            flood(self.client, self.bridge.address, 443, 0.1)

    def test_a_token_opens_and_the_connection_lives(self) -> None:
        """Both ways, to its end; and then it is silent again."""
        for address in self.addresses:
            self.assertTrue(self.opens(address))
            self.assertEqual(knock(self.client, address, 443, None, 0.5), "silence")

    def test_it_stays_silent_when_nobody_guards_it(self) -> None:
        """After a clean end and after a sudden one; the next bridge opens it again."""
        for sudden in (False, True):
            self.service.process.kill() if sudden else end([self.service.process])
            self.service.process.wait()
            for address in self.addresses:
                self.assertEqual(knock(self.client, address, 443, None, 0.5), "silence")
            self.service.start()
            self.assertTrue(wait_for(self.opens), self.service.said)

    def test_knock_lines_do_not_open_it_to_others(self) -> None:
        """With a judge, what he refuses is dropped."""
        with self.service.keyring() as keyring:
            keyring.add("carol", expires=None, now=time.time(), scheme="knock")
        self.assertTrue(wait_for(lambda: "queue" in self.bridge.run(["nft", "list", "ruleset"]).stdout))
        self.assertEqual(knock(self.client, self.bridge.address, 443, None, 0.5), "silence")
        self.assertTrue(wait_for(self.opens))

    def test_other_ports_are_let_be(self) -> None:
        """Closed ones answer, and so does what this host only forwards."""
        self.assertEqual(knock(self.client, self.bridge.address, 445, None), "refused")


class RefusedTests(Case):
    """How many SYNs had no token."""

    posture = "closed"

    def test_they_are_counted(self) -> None:
        """Those within the limit of misses and those past it; and `intact` is not disturbed."""
        self.hide()
        for _ in range(3):
            self.assertEqual(knock(self.client, self.bridge.address, 443, None), "refused")
        self.assertGreaterEqual(self.counted(), 3)
        sent = flood(self.client, self.bridge.address, 443, 0.2)
        self.assertGreaterEqual(self.counted(), sent + 3)
        self.assertNotIn("made anew", "".join(self.service.said))

    def counted(self) -> int:
        listed = self.bridge.run(["nft", "list", "counter", "inet", "torknock-443", "refused"]).stdout
        [packets] = re.findall(r"packets (\d+)", listed)
        return int(packets)


class NoKnockTests(Case):
    """A line of scheme `knock`, where the kernel answers strangers: who judges a SYN delays the answer to it."""

    posture = "closed"

    def test_nothing_is_judged(self) -> None:
        """No SYN waits in a queue, the knock opens nothing, tokens do, the operator is told; with filtered it opens."""
        for host in (self.bridge, self.client):
            host.sysctl("net.ipv4.tcp_timestamps", 0)
        self.hide()
        with self.service.keyring() as keyring:
            secret = keyring.add("carol", expires=None, now=time.time(), scheme="knock").line.secret
        isn = knock_isn(secret, socket.inet_aton(self.bridge.address), 443, 0)
        self.assertTrue(wait_for(lambda: "scheme knock opens nothing" in "".join(self.service.said)))
        time.sleep(1)
        for word in ("queue", "mark", "judged"):
            self.assertNotIn(word, self.bridge.run(["nft", "list", "ruleset"]).stdout.lower())
        self.assertEqual(knock(self.client, self.bridge.address, 443, isn), "refused")
        self.assertTrue(self.opens())
        self.assertIn("scheme knock opens nothing", self.torknock("status", "--json"))
        self.assertIn("torknock setup bridge --posture filtered", self.line_add("dave", status=1))
        end([self.service.process])
        self.service.options["posture"] = "filtered"
        self.service.start()
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, isn, 1.0) == GREETING))
        self.assertEqual(knock(self.client, self.bridge.address, 443, isn, 0.5), "silence")
        self.assertIn("scheme=knock", self.line_add("dave"))

    def line_add(self, name: str, status: int = 0) -> str:
        where = ("--address", f"{self.bridge.address}:443", "--fingerprint", "0" * 40)
        return self.torknock("line", "add", name, "--scheme", "knock", *where, status=status)

    def torknock(self, *words: str, status: int = 0) -> str:
        """What the operator's command says."""
        running = self.bridge.popen(
            [TORKNOCK, *words, "--keyring", str(self.service.state / "torknock")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        said: str = running.communicate()[0]
        self.assertEqual(running.returncode, status, said)
        return said


class DecoyTests(Case):
    """nginx on the port for strangers, the bridge for who has a line."""

    posture = "decoy"
    skip = needs_root or (None if shutil.which("nginx") else "nginx is missing")

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.directory.chmod(0o755)
        (self.directory / "index.html").write_text("a page for everybody\n")
        (self.directory / "nginx.conf").write_text(
            f"daemon off; pid {self.directory}/pid; error_log {self.directory}/error.log;\n"
            f"events {{}} http {{ access_log off; server {{ listen 443; listen [::]:443; root {self.directory}; }} }}\n"
        )
        self.nginx = self.start()
        self.hide()

    def start(self) -> subprocess.Popen[bytes]:
        nginx = self.bridge.popen(["nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")])
        self.addCleanup(end, [nginx])
        self.assertTrue(wait_for(lambda: self.page() == "a page for everybody\n"))
        return nginx

    def page(self, address: str | None = None) -> str:
        """What a stranger's browser gets."""
        host = address or self.bridge.address
        with contextlib.suppress(urllib.error.URLError, ConnectionError), self.client.enter():
            where = f"http://[{host}]:443/" if ":" in host else f"http://{host}:443/"
            return str(urllib.request.urlopen(where, timeout=5).read(), "ascii")  # noqa: S310
        return "nothing"

    def test_strangers_get_the_page_and_the_line_gets_the_bridge(self) -> None:
        """Both at once, over both families; nmap sees nginx."""
        for address in self.addresses:
            with self.client.enter():
                stranger = socket.create_connection((address, 443), 5)
            with stranger:
                self.assertTrue(self.opens(address))
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.assertIn(b"nginx", stranger.recv(4096))
            self.assertEqual(self.page(address), "a page for everybody\n")
        seen = self.client.run(["nmap", "-n", "-Pn", "-sV", "-p", "443", self.bridge.address]).stdout
        self.assertRegex(seen, "443/tcp open .*nginx")

    def test_each_outlives_the_other(self) -> None:
        """A new nginx finds its port; when the bridge ends, nginx answers everyone."""
        end([self.nginx])
        self.assertEqual(knock(self.client, self.bridge.address, 443, None), "refused")
        self.assertTrue(self.opens())
        self.start()
        self.assertTrue(self.opens())
        end([self.service.process])
        self.assertEqual(self.page(), "a page for everybody\n")
        self.assertNotEqual(knock(self.client, self.bridge.address, 443, next(self.fresh), 1.0), GREETING)
