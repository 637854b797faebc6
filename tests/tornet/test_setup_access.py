"""Tests of what `torknock setup bridge` lets the gate service guard, and of a filtered port it has set up."""

from __future__ import annotations

from tests.kernel.test_gate import wait_for
from tests.support.bridge import knock
from tests.tornet.test_setup import OFFLINE, Case
from torknock.operate.setup.doors import FILTERED
from torknock.protocol.door import Posture
from torknock.service.access import ACCESS, EVERYWHERE, Entry, parse, silence


class AccessTests(Case):
    """A bridge on a Debian machine."""

    def setUp(self) -> None:
        super().setUp()
        self.debian.start_tor(OFFLINE)

    def listed(self) -> tuple[Entry, ...]:
        return parse(self.debian.path(str(ACCESS)).read_text())

    def test_every_wish_is_listed(self) -> None:
        """Port and posture, as they are changed; the list and the rules of boot go with the undo."""
        self.set_up("--posture", "filtered")
        door = Entry(EVERYWHERE, 443, Posture.FILTERED, "debian-tor")
        self.assertEqual(self.listed(), (door,))
        self.assertIn(silence([door]), self.debian.path(str(FILTERED)).read_text())
        for path in (ACCESS, FILTERED):
            told = self.debian.run("stat", "--format=%U %G %a", str(path)).stdout
            self.assertEqual(told, "root torknock 640\n")
        self.assertEqual(knock(self.stranger, self.bridge.address, 443, None, 0.5), "silence")
        self.bridge.run(["nft", "flush", "ruleset"])
        self.bridge.run(["nft", "-f", str(self.debian.path(str(FILTERED)))])
        self.assertEqual(knock(self.stranger, self.bridge.address, 443, None, 0.5), "silence")
        self.set_up("--posture", "closed", "--port", "8443")
        self.assertEqual(self.listed(), (Entry(EVERYWHERE, 8443, Posture.CLOSED, "debian-tor"),))
        self.assertFalse(self.debian.path(str(FILTERED)).exists())
        for port in (443, 8443):
            self.assertEqual(knock(self.stranger, self.bridge.address, port, None), "refused")
        self.torknock("setup", "--undo")
        self.assertFalse(self.debian.path(str(ACCESS.parent)).exists())

    def test_an_installation_without_a_list(self) -> None:
        """As an earlier version left it: tor's log says what to run, and that mends it."""
        line = self.set_up()
        self.debian.path(str(ACCESS)).unlink()
        log = self.debian.path("/var/log/tor.log")
        self.assertTrue(wait_for(lambda: "there is no /etc/torknock/gate.toml" in log.read_text()), log.read_text())
        self.assertIn("as root: torknock setup bridge", log.read_text())
        self.assertEqual(self.set_up(), line)
        self.assertTrue(wait_for(lambda: "torknock-443" in self.bridge.run(["nft", "list", "tables"]).stdout))
