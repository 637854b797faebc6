"""Tests of what `torknock setup bridge` proposes, and of what it says at its end."""

from __future__ import annotations

from tests.support.bridge import knock
from tests.tornet.test_setup import OFFLINE, Case
from torknock.operate.setup.place import SNIPPET

PUBLIC = "9.9.9.9"
"""A public address; in this lab, the bridge's."""

DROPS = """
    table inet own {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state established accept
            iifname "lo" accept
            %s
        }
    }
"""


class ProposalTests(Case):
    """A bridge whose operator says nothing but yes."""

    def setUp(self) -> None:
        super().setUp()
        self.debian.start_tor(OFFLINE)

    def own_address(self, address: str) -> None:
        """Give the bridge *address*, and have the kernel use it towards strangers."""
        self.bridge.ip(
            f"address add {address}/32 dev eth0",
            f"route replace default via {self.bridge.gateway} src {address}",
        )

    def firewall(self, *more: str) -> None:
        """A host firewall that drops what no rule of *more* lets in."""
        self.bridge.run(["nft", "-f", "-"], DROPS % "\n".join(more))

    def test_a_firewall_that_drops_the_port(self) -> None:
        """No code to scan and no success: the line opens nothing yet, and it is said what to do."""
        self.firewall()
        said = self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", status=1)
        self.assertTrue(said.startswith("Bridge torknock "))
        self.assertNotIn("\n\x1b", said)
        self.assertIn("over IPv4 a SYN to port 443 is dropped", self.told)
        self.assertIn("let TCP port 443 in", self.told)
        self.assertIn("torknock doctor bridge", self.told)

    def test_the_posture_is_what_unused_ports_do(self) -> None:
        """A host that drops has a filtered bridge, unless another posture is named."""
        self.firewall("tcp dport 443 accept")
        said = self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes")
        self.assertIn("posture filtered: this host's firewall drops what comes to its unused ports", self.told)
        self.assertIn("posture=filtered", self.debian.path(str(SNIPPET)).read_text())
        self.assertIn("█", said)
        self.assertEqual(knock(self.stranger, self.bridge.address, 443, None, 0.5), "silence")
        self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", "--posture", "closed")
        self.assertIn("it stands out", self.told)

    def test_the_address_is_the_interfaces_own(self) -> None:
        """If it is public; another may be named."""
        self.own_address(PUBLIC)
        said = self.torknock("setup", "bridge", "--yes")
        self.assertTrue(said.startswith(f"Bridge torknock {PUBLIC}:443 "), said)
        self.assertIn(f"address {PUBLIC}: this host's own", self.told)
        self.assertIn("posture closed: this host's unused ports are closed", self.told)

    def test_what_comes_next(self) -> None:
        """After a set-up without a fault."""
        self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes")
        self.assertIn("not a public address", self.told)
        for step in ("from another host of yours: torknock check", "torknock line add NAME", "torknock status"):
            self.assertIn(step, self.told)

    def test_a_person_is_asked_for_the_address(self) -> None:
        """With what was found as the answer that return gives, and again after one that cannot be."""
        self.own_address(PUBLIC)
        answers = "127.0.0.1\n\nn\n"
        self.torknock("setup", "bridge", status=1, stdin=answers)
        self.assertIn("loopback", self.told)
        self.assertIn(f"[{PUBLIC}]", self.told)
        self.assertIn(f"Address {PUBLIC}", self.told)
        self.assertFalse(self.debian.path(str(SNIPPET)).exists())

    def test_a_broadcast_address(self) -> None:
        """Of a network that the host is in; others nobody can tell."""
        self.torknock("setup", "bridge", "--address", "198.18.1.255", "--yes", status=2)
        self.assertIn("broadcast", self.told)


class MoveTests(Case):
    """Lines that people have name an address and a port."""

    def setUp(self) -> None:
        super().setUp()
        self.debian.start_tor(OFFLINE)
        self.set_up()
        self.where = f"{self.bridge.address}:443"

    def test_lines_go_stale_with_a_word(self) -> None:
        """How many, and only once it was agreed to."""
        self.torknock("line", "add", "alice")
        self.torknock("line", "add", "bob")
        self.torknock("line", "revoke", "bob")
        before = self.debian.path(str(SNIPPET)).read_text()
        self.torknock("setup", "bridge", "--port", "8443", status=1, stdin="n\n")
        self.assertIn(f"2 live lines name {self.where}", self.told)
        self.assertEqual(self.debian.path(str(SNIPPET)).read_text(), before)
        self.torknock("setup", "bridge", "--address", "203.0.113.9", status=1, stdin="n\n")
        self.assertIn(f"2 live lines name {self.where}", self.told)
        self.assertIn("203.0.113.9:443", self.told)
        self.assertEqual(self.set_up("--port", "8443").port, 8443)
        self.assertIn(f"2 live lines name {self.where}", self.told)
        self.torknock("setup", "bridge", "--yes")
        self.assertNotIn("live line", self.told)

    def test_a_forwarded_port_stays_in_the_lines(self) -> None:
        """It is the one that clients connect to, and no set-up knows it better than the operator."""
        self.torknock("line", "show", "first", "--address", f"{self.bridge.address}:8443")
        self.torknock("line", "add", "alice", "--address", f"{self.bridge.address}:8443")
        self.assertEqual(self.set_up().port, 8443)
        self.assertIn("nothing is to be changed", self.told)
        self.assertIn(f"{self.bridge.address}:8443", self.torknock("line", "show", "alice"))
