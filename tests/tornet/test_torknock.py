"""Tests of the whole: tor, `torknock client`, a router, `torknock server`, tor."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contrib.bench.features import rule
from contrib.bench.records import connections
from tests.support.capture import Capture, Control, Seen
from tests.support.nginx import NAME, Nginx
from tests.support.packets import probe
from tests.support.tornet import PAGE, Tor, TorFailed, content, shared_network, until
from tests.unit.channel import peer
from torknock.kernel.places import SITE_SOCKET

TORKNOCK = Path(sys.executable).with_name("torknock")
CLIENT = f"ClientTransportPlugin torknock exec {TORKNOCK} client\n"

_serial = itertools.count(1)


def server(listen: str) -> str:
    """The lines of torrc that hide a bridge."""
    return f"ServerTransportPlugin torknock exec {TORKNOCK} server\nServerTransportListenAddr torknock {listen}\n"


def torknock(bridge: Tor, *arguments: str) -> str:
    """What the operator's command prints."""
    keyring = bridge.data_directory / "pt_state" / "torknock"
    return bridge.host.run([str(TORKNOCK), *arguments, "--keyring", str(keyring)]).stdout


@functools.cache
def hidden_bridge(options: str) -> Tor:
    """The bridge of all tests that want these lines of torrc, on a host of its own; the network ends it."""
    bridge = shared_network().bridge(server("0.0.0.0:443") + options, host=f"hidden{next(_serial)}")
    return bridge.wait_bootstrapped()


class Case(SynchronousTestCase):
    """A bridge behind torknock, on every address of its host."""

    timeout = 300

    options = ""
    """The bridge's own lines of torrc."""

    def setUp(self) -> None:
        self.network = shared_network()
        self.bridge = hidden_bridge(self.options)
        self.serial = next(_serial)

    def line(self, name: str, *options: str, ipv6: bool = False) -> str:
        """A bridge line, called *name* and this test's number."""
        host = self.bridge.host
        address = f"[{host.address6}]:443" if ipv6 else f"{host.address}:443"
        told = torknock(self.bridge, "line", "add", f"{name}{self.serial}", "--address", address, *options)
        return told.strip().removeprefix("Bridge ")

    def client(self, line: str, torrc: str = CLIENT) -> Tor:
        client = self.network.client([line], torrc)
        self.addCleanup(client.stop)
        return client


class KnockLineTests(Case):
    """TCP Stealth, judged in user space at a port that answers nobody."""

    options = "ServerTransportOptions torknock posture=filtered\n"

    def test_a_knock_line_works_too(self) -> None:
        """With a token line on the same port."""
        self.line("alice")
        client = self.client(self.line("carol", "--scheme", "knock")).wait_bootstrapped()
        self.assertEqual(self.network.fetch("/", via=client), PAGE)

    def test_a_knock_line_with_integrity_works_too(self) -> None:
        """tor's first octets are known before the SYN leaves."""
        client = self.client(self.line("carol", "--scheme", "knock", "--integrity", "64")).wait_bootstrapped()
        self.assertEqual(self.network.fetch("/", via=client), PAGE)


class SiteTests(Case):
    """The operator's own nginx ends TLS for everybody."""

    directory = Path(tempfile.mkdtemp(prefix="torknock-site-"))
    options = f"ServerTransportOptions torknock site={directory}\n"

    @classmethod
    def setUpClass(cls) -> None:
        atexit.register(shutil.rmtree, cls.directory, ignore_errors=True)

    def test_a_web_line_works(self) -> None:
        """tor bootstraps through nginx, beside a line of channel tls on the same port; nginx logs no client."""
        lines = torknock(self.bridge, "site")
        with Nginx(lines, peer.certificate(NAME), peer.KEY) as nginx:
            nginx.start(self.directory / SITE_SOCKET, self.bridge.host)
            web = self.line("alice", "--sni", NAME)
            self.assertIn("channel=web", web)
            client = self.client(web).wait_bootstrapped()
            self.assertEqual(self.network.fetch("/", via=client), PAGE)
            self.assertEqual(self.network.fetch("/bytes/10000000", via=client), content(10_000_000))
            client.stop()
            other = self.client(self.line("bob", "--channel", "tls")).wait_bootstrapped()
            self.assertEqual(self.network.fetch("/", via=other), PAGE)
            told = nginx.log + (nginx.home / "access.log").read_text()
        self.assertNotIn(self.network.lab.host("client").address, told)


class HiddenBridgeTests(Case):
    """Every other line, at a port that is closed to strangers."""

    def begun(self, wire: Capture) -> list[Seen]:
        """What was sent that is not the end of an earlier test's connection."""
        return [seen for seen in wire.seen if not seen.stays and (seen.packet is None or seen.packet.opens)]

    def test_a_bridge_line_is_all_that_a_client_needs(self) -> None:
        """It bootstraps and fetches 10 MB through three hops; the wire shows TLS to the port and nothing else."""
        client_host = self.network.lab.host("client")
        with Capture(self.network.lab.hub, client_host.hub_interface) as wire:
            client = self.client(self.line("alice")).wait_bootstrapped()
            self.assertEqual(self.network.fetch("/", via=client), PAGE)
            self.assertEqual(self.network.fetch("/bytes/10000000", via=client), content(10_000_000))
        self.assertEqual([seen.raw[:80] for seen in wire.seen if seen.packet is None and not seen.stays], [])
        packets = wire.tcp()
        self.assertEqual({packet.destination_port for packet in packets if packet.opens}, {443})
        for flow in {packet.source_port for packet in packets if packet.opens}:
            sent = b"".join(packet.payload for packet in packets if packet.source_port == flow)
            self.assertEqual(sent[:3], b"\x16\x03\x01")

    def test_a_shaped_line_hides_the_lengths_of_tors_cells(self) -> None:
        """Three of the first 30 records of tor in plain TLS have 514 k + 39 octets, on each of its connections."""
        found = []
        for name, options in (("shaped", ("--shape",)), ("plain", ())):
            client_host = self.network.lab.host("client")
            with Capture(self.network.lab.hub, client_host.hub_interface) as wire:
                client = self.client(self.line(name, *options)).wait_bootstrapped()
                self.assertEqual(self.network.fetch("/bytes/300000", via=client), content(300_000))
            client.stop()
            every = [records for records in connections(wire.seen, 443).values() if records]
            found.append([rule(records) for records in every])
        shaped, plain = found
        self.assertEqual((any(shaped), all(plain)), (False, True), found)
        self.assertTrue(shaped and plain)

    def test_ipv6_is_behind_the_same_name(self) -> None:
        """One transport, one port, both families (a line has one address)."""
        client = self.client(self.line("alice", ipv6=True)).wait_bootstrapped()
        self.assertEqual(self.network.fetch("/", via=client), PAGE)

    def test_a_raw_line_works_too(self) -> None:
        """tor's own TLS is then all there is behind the handshake."""
        client = self.client(self.line("alice", "--channel", "raw")).wait_bootstrapped()
        self.assertEqual(self.network.fetch("/", via=client), PAGE)

    def test_a_bridge_behind_a_port_forward_is_reached(self) -> None:
        """Neither address nor port is an input of a token, and the certificate names the address in the line."""
        public, hub = "203.0.113.9:8443", self.network.lab.hub
        host, port = public.split(":")
        forward = f"ip daddr {host} tcp dport {port} dnat to {self.bridge.host.address}:443"
        hub.run(
            ["nft", "-f", "-"],
            f"table ip forward {{ chain incoming {{ type nat hook prerouting priority dstnat; {forward}; }}; }}\n",
        )
        self.addCleanup(hub.run, ["nft", "delete", "table", "ip", "forward"])
        # A FIN that the client sends once the rule is gone would be seen by the tests that come next.
        client_host = self.network.lab.host("client")
        connected = ["ss", "-Htn", "state", "connected", "exclude", "time-wait", "dst", host]
        self.addCleanup(until, lambda: not client_host.run(connected).stdout, 30, lambda: "the client has not closed")
        client = self.client(self.line("alice", "--address", public)).wait_bootstrapped()
        self.assertEqual(self.network.fetch("/", via=client), PAGE)

    def test_the_bridge_knows_its_clients_address(self) -> None:
        """Through the Extended ORPort, so that tor counts clients, and one client's floods are one client's."""
        address = self.network.lab.host("client").address
        with self.bridge.controller() as bridge:
            until(lambda: address not in bridge.get_info("orconn-status"), 30, lambda: "an earlier client is there")
            self.client(self.line("alice")).wait_bootstrapped()
            self.assertIn(address, bridge.get_info("orconn-status"))

    def test_a_revoked_line_is_out_and_another_is_not(self) -> None:
        """A client that starts after the command gets nowhere."""
        alice, bob = self.line("alice"), self.line("bob")
        torknock(self.bridge, "line", "revoke", f"alice{self.serial}")
        self.client(bob).wait_bootstrapped()
        with self.assertRaises(TorFailed):
            self.client(alice).wait_bootstrapped(15, timeout=10)

    def test_without_the_capability_no_packet_leaves(self) -> None:
        """tor's log says what to do, and nothing goes to the bridge, knocked or not."""
        client_host = self.network.lab.host("client")
        powerless = CLIENT.replace("exec ", "exec /usr/bin/setpriv --bounding-set=-net_admin ")
        with Capture(self.network.lab.hub, client_host.hub_interface) as wire:
            client = self.client(self.line("alice"), powerless)
            client.wait_log("CAP_NET_ADMIN")
            with self.assertRaises(TorFailed):
                client.wait_bootstrapped(15, timeout=5)
        self.assertEqual(self.begun(wire), [])

    def test_a_proxy_is_refused(self) -> None:
        """A knock cannot pass one, so nothing is sent at all."""
        client_host = self.network.lab.host("client")
        with Capture(self.network.lab.hub, client_host.hub_interface) as wire:
            client = self.client(self.line("alice"), CLIENT + "Socks5Proxy 127.0.0.1:9\n")
            client.wait_log("cannot knock through a proxy")
        self.assertEqual(self.begun(wire), [])

    def test_the_port_stays_closed_to_a_prober(self) -> None:
        """While a client is connected, the port answers a stranger as the port beside it."""
        self.client(self.line("alice")).wait_bootstrapped()
        prober = self.network.lab.host("probe")
        for control in (Control.SYN, Control.FIN, Control.ACK, Control(0)):
            answers = [probe(prober, self.bridge.host.address, port, control) for port in (443, 444)]
            self.assertEqual(answers[0], answers[1])

    def test_tor_publishes_no_secret(self) -> None:
        """What tor wrote down of the transport has no arguments."""
        for written in self.bridge.bridge_lines:
            self.assertNotIn("key=", written)
