"""Tests of `plain.py` with a tor in memory: run them with `trial contrib.examples.test_plain`."""

from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contrib.examples.plain import PlainClient, PlainServer
from pluggable.testing import LinkToBridge, LinkToClient, MemoryNetwork, MemoryTor, Method, SOCKSRefused

BRIDGE = "192.0.2.1"


class PlainTests(SynchronousTestCase):
    """A client and a bridge, each with its tor, in one network."""

    def setUp(self) -> None:
        """Nothing has started yet."""
        self.network = MemoryNetwork()
        self.bridge, self.client = self.tor(), self.tor()

    def tor(self) -> MemoryTor:
        """A tor with a data directory of its own."""
        return MemoryTor(self.network, Path(self.mktemp()).absolute())

    def start(self) -> None:
        """Start both sides."""
        self.bridge.start_server({"plain": partial(PlainServer, self.network)}, {"plain": f"{BRIDGE}:443"})
        self.client.start_client({"plain": partial(PlainClient, self.network)})

    def link(self) -> tuple[LinkToBridge, LinkToClient]:
        """Both tors' ends of a new connection through client and bridge."""
        connecting = self.client.connect("plain", BRIDGE, 443, [("key", "value")])
        self.network.advance(0)
        return self.successResultOf(connecting), self.bridge.clients[-1]

    def test_both_sides_are_reported_to_tor(self) -> None:
        """tor understands every line."""
        self.start()
        self.assertEqual(self.bridge.output.methods, {"plain": Method(BRIDGE, 443)})
        self.assertEqual(list(self.client.output.methods), ["plain"])
        self.assertEqual(self.bridge.output.faults + self.client.output.faults, [])

    def test_octets_cross_in_both_directions(self) -> None:
        """The end comes after the last octet."""
        self.start()
        near, far = self.link()
        near.write(b"question")
        self.network.advance(0)
        self.assertEqual(far.received, b"question")
        far.write(b"answer")
        far.close()
        self.network.advance(0)
        self.assertEqual((near.received, near.lost), (b"answer", True))

    def test_the_bridges_tor_learns_where_a_client_comes_from(self) -> None:
        """It counts clients by country."""
        self.start()
        _near, far = self.link()
        self.assertEqual(far.transport_name, "plain")
        self.assertRegex(far.user_address or "", r"^127\.0\.0\.1:\d+$")

    def test_a_bridge_that_refuses_is_reported_to_tor(self) -> None:
        """With the reply for it, 5 (RFC 1928 §6), and a line in tor's log."""
        self.client.start_client({"plain": partial(PlainClient, self.network)})
        connecting = self.client.connect("plain", BRIDGE, 443)
        self.network.advance(0)
        self.assertEqual(self.failureResultOf(connecting, SOCKSRefused).value.reply, 5)
        self.assertEqual([line.severity for line in self.client.output.logs].count("warning"), 1)

    def test_options_that_the_transport_does_not_have_are_refused(self) -> None:
        """tor's operator reads why."""
        self.bridge.start_server({"plain": partial(PlainServer, self.network)}, {"plain": f"{BRIDGE}:443"}, "plain:a=b")
        self.assertIn("plain has none", self.bridge.output.method_errors["plain"])

    def test_the_end_of_stdin_ends_both_sides(self) -> None:
        """With exit code 0, and no link is left."""
        self.start()
        near, far = self.link()
        self.assertEqual(self.successResultOf(self.bridge.close_stdin()), 0)
        self.assertEqual(self.successResultOf(self.client.close_stdin()), 0)
        self.network.advance(0)
        self.assertTrue(near.lost and far.lost)
        self.assertEqual(self.network.getDelayedCalls(), [])
