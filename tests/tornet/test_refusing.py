"""A real tor that takes no clients: the port closes after the first that it refused, and opens by itself."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.bridge import connected
from tests.support.netns import Lab
from tests.support.tornet import Tor, until
from tests.tornet.test_watch import HIBERNATING, OFFLINE, needs_root
from torknock.keyring.lines import Keyring
from torknock.protocol.bridge_line import Channel
from torknock.protocol.token import epoch_at

TORKNOCK = Path(sys.executable).with_name("torknock")
TORRC = (
    f"{OFFLINE}ServerTransportPlugin torknock exec {TORKNOCK} server\n"
    "ServerTransportListenAddr torknock 0.0.0.0:443\n"
)  # fmt: skip


class Case(SynchronousTestCase):
    """A bridge without a network, and a client that knocks."""

    skip = needs_root
    timeout = 120

    patience = 1.0
    """Seconds after which a client that was not hung up on is served."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name) / "tor"
        self.directory.mkdir(mode=0o700)
        lab = Lab()
        self.addCleanup(lab.close)
        self.host, self.client = lab.host("bridge"), lab.host("client")
        with Keyring.open(self.directory / "pt_state" / "torknock", create=True) as keyring:
            self.alice = keyring.add("alice", n=64, channel=Channel.RAW, expires=None, now=time.time()).line
        self.fresh = self.tokens()

    def tokens(self) -> Iterator[int]:
        """Each once, of the present epoch."""
        for each in itertools.count():
            yield self.alice.tokens(epoch_at(time.time()))[each]

    def started(self, torrc: str = "") -> Tor:
        tor = Tor("bridge", self.host, self.directory, TORRC + torrc)
        self.addCleanup(tor.stop)
        tor.wait_log("Registered server transport 'torknock'")
        return tor

    def knock(self) -> str:
        """What becomes of a fresh token: "closed", "hung up" or "served"."""
        try:
            with connected(self.client, self.host.address, 443, next(self.fresh)) as connection:
                connection.settimeout(self.patience)
                try:
                    return "hung up" if not connection.recv(1) else "spoken to"
                except ConnectionResetError:
                    return "hung up"
                except TimeoutError:
                    return "served"
        except ConnectionRefusedError:
            return "closed"

    def assert_served(self, tor: Tor, within: float) -> None:
        """The next fresh token that is let in is served, within so many seconds."""
        found: list[str] = []

        def served() -> bool:
            time.sleep(0.4)
            found.append(self.knock())
            return found[-1] == "served"

        until(served, within, lambda: tor.trouble(str(found[-3:])))
        self.assertEqual(set(found) - {"closed"}, {"served"})

    def assert_closes(self, tor: Tor) -> None:
        """At most two tokens are spent for nothing, and then none."""
        found = []
        for _ in range(6):
            found.append(self.knock())
            time.sleep(0.7)
        self.assertLessEqual(found.count("hung up"), 2, tor.trouble(str(found)))
        self.assertEqual(set(found[-3:]), {"closed"}, tor.trouble(str(found)))

    def told(self, tor: Tor, words: str) -> int:
        """How often tor's log has *words*."""
        return tor.log.count(words)


class RefusingTests(Case):
    """Each way in which a tor that runs takes no clients."""

    def test_one_that_hibernates(self) -> None:
        """Closed until it wakes, at whatever port it then listens; said once each way."""
        (self.directory / "state").write_text(HIBERNATING.format(begin=datetime.now(UTC)))
        tor = self.started("AccountingMax 1 KBytes\n")
        tor.wait_log("hibernation. No new connections")
        self.assert_closes(tor)
        with tor.controller() as controller:
            controller.set_conf("AccountingMax", "0")
        self.assert_served(tor, 30)
        self.assertEqual(self.told(tor, "port closed: tor takes no clients"), 1, tor.trouble(""))
        self.assertEqual(self.told(tor, "port open again"), 1, tor.trouble(""))

    def test_one_that_is_shutting_down(self) -> None:
        """It lets those who are connected finish, and takes no others."""
        tor = self.started()
        with tor.controller() as controller:
            controller.set_conf("ShutdownWaitLength", "60")
        self.assert_served(tor, 10)
        os.kill(tor.pid, signal.SIGINT)
        tor.wait_log("stopped accepting new connections")
        self.assert_closes(tor)

    def test_one_that_is_stopped(self) -> None:
        """Its kernel takes connections, and tor says nothing."""
        self.patience = 6.0
        tor = self.started()
        os.kill(tor.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, tor.pid, signal.SIGCONT)
        self.assert_closes(tor)
        os.kill(tor.pid, signal.SIGCONT)
        self.assert_served(tor, 30)

    def test_one_without_network(self) -> None:
        """tor ends its transports then, and starts them again."""
        tor = self.started()
        for disabled in "10":
            with tor.controller() as controller:
                controller.set_conf("DisableNetwork", disabled)
            if disabled == "1":
                self.assert_closes(tor)
        self.assert_served(tor, 30)

    def test_one_that_is_killed_and_started_again(self) -> None:
        """Its transport ends with it, and the next one takes over the port."""
        tor = self.started()
        self.assert_served(tor, 10)
        os.kill(tor.pid, signal.SIGKILL)
        self.assert_served(self.started(), 30)
