"""Tests of torknock.tor.watch with a real tor, and of `torknock status` beside it. Nothing leaves their namespace."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.keeper import QuietKeeper
from tests.support.netns import Lab
from tests.support.reactor import reactor
from tests.support.tornet import Tor, shared_network
from torknock.bridge.counts import Counts, Identity, Monitor
from torknock.bridge.publish import Publication
from torknock.operate.doctor.tor import or_port, takes_clients
from torknock.tor.inspect import ask_tor
from torknock.tor.watch import TorSeen, TorUnseen, Watch

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

OFFLINE = f"""
TestingTorNetwork 1
DirAuthority nobody orport=1 no-v2 v3ident={"A" * 40} 127.0.0.1:1 {"B" * 40}
BridgeRelay 1
PublishServerDescriptor 0
AssumeReachable 1
Address 198.18.2.2
ORPort 127.0.0.1:auto IPv4Only
ExtORPort auto
SocksPort 0
"""

TRANSPORT = """#!/bin/sh
echo VERSION 1
echo SMETHOD torknock 127.0.0.1:1
echo SMETHODS DONE
while ! [ -e {go} ]; do sleep 0.05; done
echo 'LOG SEVERITY=notice MESSAGE="all is well"'
echo 'LOG SEVERITY=warning MESSAGE="no answer from 203.0.113.9 nor [2001:db8::9]:443"'
cat > /dev/null
"""


class RealTorTests(TestCase):
    """A bridge's tor without a network."""

    skip = needs_root

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.control = str(self.directory / "tor" / "control")
        self.go = self.directory / "go"
        transport = self.directory / "transport"
        transport.write_text(TRANSPORT.format(go=self.go))
        transport.chmod(0o700)
        lab = Lab()
        self.addCleanup(lab.close)
        self.host = lab.host("bridge")
        torrc = f"{OFFLINE}ServerTransportPlugin torknock exec {transport}"
        self.tor = Tor("bridge", self.host, self.directory / "tor", torrc)
        self.addCleanup(self.tor.stop)
        self.tor.wait_log("Registered server transport 'torknock'")

    async def test_what_is_seen(self) -> None:
        """Version, progress and connections; then what tor complains of, without addresses; at last, that it ended."""
        watch = Watch(reactor, self.control)
        self.addCleanup(watch.close)
        seen = await watch.look()
        assert isinstance(seen, TorSeen), seen
        self.assertRegex(seen.version, r"^0\.4\.\d+\.\d+")
        self.assertEqual((seen.or_connections, seen.complaints), (0, ()))
        self.assertIn(seen.bootstrapped, range(100))
        self.assertIs(seen.or_port_answers, False)  # it listens in another namespace
        self.go.touch()
        deadline = time.monotonic() + 60
        while not seen.complaints and time.monotonic() < deadline:
            await deferLater(reactor, 0.05)
            again = await watch.look()
            assert isinstance(again, TorSeen), again
            seen = again
        (complaint,) = seen.complaints
        self.assertIn("no answer from [scrubbed] nor [scrubbed]", complaint)
        await deferToThread(self.tor.stop)
        self.assertIsInstance(await watch.look(), TorUnseen)

    async def test_the_command_beside_a_tor(self) -> None:
        """One object that has the bridge and its tor, whose ORPort answers."""
        monitor = Monitor(reactor, Identity("1.0", "closed", 443), Counts(reactor), QuietKeeper())
        publication = Publication(reactor, monitor, self.directory)
        self.addCleanup(lambda: Deferred.fromCoroutine(publication.stop()))
        await publication.start()
        command = [sys.executable, "-m", "torknock", "status", "--keyring", str(self.directory)]
        asked = await deferToThread(self.host.run, [*command, "--json", "--control", self.control])
        told = json.loads(asked.stdout)
        self.assertEqual((told["port"], told["refused"], told["syns_to_a_hit"]), (443, 7, 178_956_970))
        self.assertEqual((told["tor"]["or_port_answers"], told["tor"]["or_connections"]), (True, 0))
        asked = await deferToThread(self.host.run, [*command, "--control", self.control])
        self.assertTrue(re.search(r"tor +0\.4\.\S+, bootstrapped \d+ %, ORPort answers, 0", asked.stdout), asked.stdout)


HIBERNATING = """AccountingIntervalStart {begin:%Y-%m}-01 00:00:00
AccountingBytesReadInInterval 1073741824
AccountingBytesWrittenInInterval 1073741824
AccountingSecondsActive 100
AccountingExpectedUsage 0
"""


class RefusingTests(TestCase):
    """A tor that runs and takes no clients: what `status` and `doctor` see of it."""

    skip = needs_root

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "tor"
        lab = Lab()
        self.addCleanup(lab.close)
        self.host = lab.host("bridge")

    def started(self, torrc: str) -> Tor:
        tor = Tor("bridge", self.host, self.directory, OFFLINE + torrc)
        self.addCleanup(tor.stop)
        return tor

    async def assert_refusing(self, tor: Tor, words: str) -> None:
        """Both say *words*, a pattern, and neither wants another ORPort."""
        watch = Watch(reactor, str(tor.data_directory / "control"))
        self.addCleanup(watch.close)
        seen = await watch.look()
        assert isinstance(seen, TorSeen), seen
        self.assertRegex(seen.refusing, words)
        facts = await deferToThread(ask_tor, str(tor.data_directory / "control"))
        self.assertEqual(facts.refusing, seen.refusing)
        if not words:
            return
        self.assertIn(seen.refusing, str(takes_clients(facts)))
        self.assertNotIn("127.0.0.1:auto", str(or_port(facts, ())))

    async def test_one_that_hibernates(self) -> None:
        """Until when is said."""
        self.directory.mkdir(mode=0o700)
        (self.directory / "state").write_text(HIBERNATING.format(begin=datetime.now(UTC)))
        tor = self.started("AccountingMax 1 KBytes\n")
        await deferToThread(tor.wait_log, "hibernation. No new connections")
        await self.assert_refusing(tor, r"hibernates .* until 20\d\d-\d\d-01 00:00:00 UTC or later")

    async def test_one_without_network(self) -> None:
        """As long as it may not use it."""
        tor = self.started("")
        await deferToThread(tor.wait_log, "Bootstrapped 0%")
        await self.assert_refusing(tor, "^$")
        with tor.controller() as controller:
            controller.set_conf("DisableNetwork", "1")
        await self.assert_refusing(tor, "DisableNetwork")
        with tor.controller() as controller:
            controller.set_conf("DisableNetwork", "0")
        await self.assert_refusing(tor, "^$")


class NetworkTests(TestCase):
    """A bridge in a network that works."""

    skip = needs_root

    async def test_a_bridge_that_has_bootstrapped(self) -> None:
        """Its connections to relays are counted as tor counts them."""
        network = await deferToThread(shared_network)
        bridge = await deferToThread(network.bridge)
        self.addCleanup(bridge.stop)
        await deferToThread(bridge.wait_bootstrapped)
        watch = Watch(reactor, str(bridge.data_directory / "control"))
        self.addCleanup(watch.close)
        counted = -1
        while counted < 1:  # tor opens and closes them as it likes
            before = await deferToThread(bridge.info, "orconn-status")
            seen = await watch.look()
            if before == await deferToThread(bridge.info, "orconn-status"):
                counted = before.count(" CONNECTED")
        assert isinstance(seen, TorSeen), seen
        self.assertEqual((seen.bootstrapped, seen.or_connections), (100, counted))


class NoTorTests(TestCase):
    """A control port that is none."""

    async def test_the_reason_is_said(self) -> None:
        """And nothing is raised."""
        for control in ("/nonexistent/control", "127.0.0.1:1", "somewhere"):
            unseen = await Watch(reactor, control).look()
            assert isinstance(unseen, TorUnseen)
            self.assertTrue(unseen.reason.isprintable() and unseen.reason, control)
            self.assertNotIn("127.0.0.1:1 ", unseen.reason)
