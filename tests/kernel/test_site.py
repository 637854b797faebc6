"""A bridge with a site: a stolen SYN meets the operator's own nginx, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import TORKNOCK, HiddenService, connected, knock
from tests.support.netns import Lab
from tests.support.nginx import NAME, Nginx
from tests.support.visits import Answer, visits
from tests.unit.channel import peer
from torknock.kernel.places import SITE_SOCKET
from torknock.protocol.bridge_line import Channel
from torknock.protocol.token import epoch_at, tokens


class SiteTests(SynchronousTestCase):
    """A bridge, its site, and one line of channel `web`."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.service = HiddenService(self.bridge)
        self.addCleanup(self.service.close)
        self.directory = self.service.state / "site"
        self.directory.mkdir()
        self.restart(site=str(self.directory))
        lines = self.torknock("site") + "listen 8443 ssl;\n"
        self.nginx = Nginx(lines, peer.certificate(NAME), peer.KEY)
        self.addCleanup(self.nginx.close)
        self.nginx.start(self.directory / SITE_SOCKET, self.bridge)
        where = ("--address", f"{self.bridge.address}:443", "--fingerprint", "A" * 40)
        self.torknock("line", "add", "alice", "--sni", NAME, "--n", "200", *where)
        with self.service.keyring() as keyring:
            self.line = keyring.get("alice").line
        self.fresh = self.isns()

    def restart(self, **options: str) -> None:
        assert self.service.process.stdin is not None
        self.service.process.stdin.close()
        self.service.process.wait(10)
        self.service.options |= options
        self.service.start()

    def torknock(self, *arguments: str) -> str:
        keyring = ("--keyring", str(self.service.state / "torknock"))
        return self.bridge.run([TORKNOCK, *arguments, *keyring]).stdout

    def isns(self) -> Iterator[int]:
        """Tokens of the line, each once."""
        used: set[int] = set()
        while True:
            line = self.line.forward(epoch_at(time.time()))
            for isn in tokens(line.secret, line.bridge_name, epoch_at(time.time()), line.n):
                if isn not in used:
                    used.add(isn)
                    yield isn
                    break

    def visited(self, name: str, isn: int | None) -> Answer:
        """What the probe called *name* gets, at the hidden port with the token *isn* or at nginx's own."""
        port = 8443 if isn is None else 443
        with connected(self.client, self.bridge.address, port, isn) as tcp:
            return visits(NAME, self.line.path)[name](tcp)

    def test_a_stolen_syn_meets_the_real_nginx(self) -> None:
        """Each of 22 probes gets, record by record and octet by octet, what it gets from nginx itself."""
        self.assertEqual(self.line.channel, Channel.WEB)
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, next(self.fresh)) != "refused"))
        probes = visits(NAME, self.line.path)
        self.assertEqual(len(probes), 22)
        with ThreadPoolExecutor(2 * len(probes)) as pool:
            stolen = pool.map(self.visited, probes, islice(self.fresh, len(probes)))
            direct = pool.map(self.visited, probes, [None] * len(probes))
            for name, one, other in zip(probes, stolen, direct, strict=True):
                self.assertEqual(one, other, name)
        self.assertEqual(knock(self.client, self.bridge.address, 443, None), "refused")

    def test_while_nginx_is_down(self) -> None:
        """What a token opens is reset, and `status` says so; once nginx is back it is served."""
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, next(self.fresh)) != "refused"))
        before = json.loads(self.torknock("status", "--json", "--once"))
        self.nginx.stop()
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(self.fresh)), "reset")
        told = json.loads(self.torknock("status", "--json", "--once"))
        self.assertEqual([each["trouble"] for each in told["warnings"] if each["trouble"] == "site"], ["site"])
        self.assertGreater(told["site_failed"], 0)
        self.assertEqual(told["given_nothing"], before["given_nothing"])  # no client is suspected of anything
        self.assertNotIn(self.client.address, "\n".join(self.service.said))
        Path(self.directory / SITE_SOCKET).unlink(missing_ok=True)
        self.nginx.start(self.directory / SITE_SOCKET, self.bridge)
        self.assertIn(b"own page", self.visited("the page", next(self.fresh)).content)
