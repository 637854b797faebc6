"""The private Tor network itself: what other tests of a real tor rest on."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.netns import Lab
from tests.support.tornet import PAGE, Tor, TorFailed, TorNetwork, content, shared_network

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

OBFS4PROXY = "/usr/bin/obfs4proxy"


class NetworkTests(SynchronousTestCase):
    """A bridge, a client, three hops, a page. Everything is blocking: nothing else runs meanwhile."""

    skip = needs_root

    def started(self, tor: Tor) -> Tor:
        """The same tor, bootstrapped; it ends with the test."""
        self.addCleanup(tor.stop)
        return tor.wait_bootstrapped()

    def test_a_bridge_without_a_transport_is_the_first_hop(self) -> None:
        """Without any transport a client reaches the web server in three hops, and the first is the bridge."""
        network = shared_network()
        bridge = self.started(network.bridge(or_port="auto"))
        client = self.started(network.client(bridge.bridge_lines))
        self.assertEqual(network.fetch("/", via=client), PAGE)
        self.assertEqual(network.fetch("/bytes/300000", via=client), content(300000))
        circuits = network.circuits(client)
        self.assertEqual({(len(circuit), circuit[0]) for circuit in circuits}, {(3, bridge.nickname)})
        self.assertTrue(any(circuit[-1].startswith("exit") for circuit in circuits), circuits)

    def test_a_transport_that_tor_starts_carries_the_same(self) -> None:
        """The same behind a transport that tor starts on both sides; the ORPort is then on loopback alone."""
        network = shared_network()
        bridge = self.started(network.bridge(f"ServerTransportPlugin obfs4 exec {OBFS4PROXY}"))
        (line,) = bridge.bridge_lines
        self.assertEqual(line.split()[0], "obfs4")
        self.assertEqual(line.split()[2], bridge.fingerprint)
        client = self.started(network.client([line], f"ClientTransportPlugin obfs4 exec {OBFS4PROXY}"))
        self.assertEqual(network.fetch("/", via=client), PAGE)
        refused = self.assertRaises(OSError, self.connect, bridge)
        self.assertIsInstance(refused, ConnectionRefusedError)

    def connect(self, bridge: Tor) -> None:
        """Knock at the ORPort of *bridge* from another host."""
        probe = shared_network().lab.host("probe")
        probe.call(socket.create_connection, (bridge.host.address, bridge.or_port), 10).close()

    def test_a_missing_page_is_an_error(self) -> None:
        """Not an empty page; and a client without bridges is one too."""
        network = shared_network()
        client = self.started(network.client())
        self.assertRaises(TorFailed, network.fetch, "/nonesuch", client)
        self.assertEqual(network.fetch("/bytes/0", via=client), b"")

    def test_a_tor_that_refuses_its_torrc(self) -> None:
        """The error says what tor said, at once and not after the whole timeout."""
        tor = shared_network().client(torrc_extra="NoSuchOption 1")
        failure = self.assertRaises(TorFailed, tor.wait_bootstrapped, timeout=600)
        self.assertIn("NoSuchOption", str(failure))
        self.assertFalse(tor.running)


class LeftoversTests(SynchronousTestCase):
    """What was opened is closed and removed."""

    skip = needs_root

    def traces(self) -> set[str]:
        """Namespaces, directories, threads and tors of this process."""
        mark = f"tk{os.getpid()}"
        found = {name for name in os.listdir("/run/netns") if name.startswith(mark)}
        found |= {path.name for path in Path(tempfile.gettempdir()).glob(f"{mark}-*")}
        found |= {thread.name for thread in threading.enumerate()}
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = cmdline.read_bytes()
            except OSError:  # it has ended
                continue
            if f"/{mark}-".encode() in command:
                found.add(cmdline.parent.name)
        return found

    def test_an_interrupted_start_leaves_nothing(self) -> None:
        """Ctrl-C while eight tors run and the authorities have not yet voted."""
        with Lab():  # so that there is a /run/netns
            before = self.traces()
            during: set[str] = set()

            def interrupt(said: str) -> None:
                if "vote" in said:
                    during.update(self.traces())
                    raise KeyboardInterrupt

            self.assertRaises(KeyboardInterrupt, TorNetwork, progress=interrupt)
            self.assertGreater(len(during - before), 8)
            self.assertEqual(self.traces() - before, set())
