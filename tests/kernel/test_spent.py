"""Tests that what was spent stays spent, with real packets: clocks that are stepped, disks that are full, SIGKILL."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.disk import fill
from torknock.bridge.ledger import SpentTokens, SpentUnusable
from torknock.protocol.token import epoch_at, tokens

NOWHERE = Path("/nonexistent/gate.sock")
PORT = 8443

needs_root = None if os.geteuid() == 0 else "network namespaces need root"


class AnyGate(Case):
    """A bridge host, a client host, and a line; subclasses say whose gate it is."""

    skip = needs_root

    helper: Path | None = None
    closed = "refused"
    n = 64

    def setUp(self) -> None:
        super().setUp()
        self.hidden = self.serves()
        self.alice = self.hidden.line("alice", time.time() - 7200, n=self.n).line
        self.fresh = self.tokens()
        self.assertTrue(wait_for(self.opens), self.hidden.said)

    def serves(self, state: Path | None = None, skew: float = 0.0) -> HiddenService:
        """The transport, whose clock is wrong by *skew* seconds."""
        hidden = HiddenService(self.bridge, f"0.0.0.0:{PORT}", state, helper=self.where(), skew=skew)
        self.addCleanup(hidden.close)
        return hidden

    def where(self) -> Path | None:
        return self.helper

    def tokens(self) -> Iterator[int]:
        for ahead in (0, 1, -1):
            yield from tokens(self.alice.secret, self.alice.bridge_name, epoch_at(time.time()) + ahead, self.alice.n)

    def knock(self, token: int) -> bytes | str:
        return knock(self.client, self.bridge.address, PORT, token, 1.0)

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, PORT, next(self.fresh)) == GREETING

    def spent(self) -> int:
        """A token that has opened a connection, and opens no other."""
        token = next(self.fresh)
        self.assertEqual(knock(self.client, self.bridge.address, PORT, token), GREETING)
        self.assertEqual(self.knock(token), self.closed)
        return token

    def restart(self) -> None:
        self.hidden.process.terminate()
        self.assertEqual(self.hidden.process.wait(10), 0)
        self.hidden.said.clear()
        self.hidden.start()


class ClockSteps(AnyGate):
    """An attacker on the path steps a clock that trusts unauthenticated NTP."""

    def test_a_step_for_a_moment_revives_nothing(self) -> None:
        """20 minutes or an hour ahead for 3 s, then right again: refused all the while, and others are let in."""
        token = self.spent()
        for ahead in (1200.0, 3600.0):
            self.hidden.skew(ahead)
            gives_up = time.monotonic() + 3
            while time.monotonic() < gives_up:
                self.assertEqual(self.knock(token), self.closed)
                time.sleep(0.2)
            self.assertTrue(self.opens(), "a step of 3 s shuts the bridge")
            self.hidden.skew(0.0)
            time.sleep(1.5)
            self.assertEqual(self.knock(token), self.closed, f"after {ahead:+.0f} s")
        self.assertTrue(wait_for(self.opens))

    def test_an_hour_behind_over_a_restart_revives_nothing(self) -> None:
        """A clock that is behind what was served opens nothing, and says until when; right again, all is as before."""
        token = self.spent()
        self.hidden.skew(-3600.0)
        self.restart()
        for _ in range(3):
            hour_ago = tokens(self.alice.secret, self.alice.bridge_name, epoch_at(time.time() - 3600), self.alice.n)
            self.assertEqual(self.knock(hour_ago[0]), self.closed)
            self.assertEqual(self.knock(token), self.closed)
            time.sleep(0.4)
        self.assertTrue(any("clock" in told and "severity=err" in told.lower() for told in self.hidden.said))
        self.hidden.skew(0.0)
        self.restart()
        self.assertTrue(wait_for(self.opens), self.hidden.said)
        self.assertEqual(self.knock(token), self.closed)


class OwnGateClockTests(ClockSteps):
    """With CAP_NET_ADMIN."""


class ServiceClockTests(ClockSteps):
    """By `torknock gate`."""

    def where(self) -> Path:
        return self.path


class FilterClockTests(ClockSteps):
    """Without privilege."""

    helper = NOWHERE
    closed = "silence"


class FullDisks(AnyGate):
    """A file system of a few pages, for the keyring and what was spent."""

    def serves(self, state: Path | None = None, skew: float = 0.0) -> HiddenService:
        self.small = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(self.small.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "none", str(self.small)], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(self.small)], check=True)
        return super().serves(self.small)

    def fill(self) -> Path:
        """Take all the room there is."""
        return fill(self.small)

    def test_a_start_on_a_full_disk_opens_nothing_that_was_spent(self) -> None:
        """The port is closed and it is said; with room again, it opens, and not for what was spent."""
        token = self.spent()
        self.hidden.process.kill()
        self.hidden.process.wait()
        (self.small / "torknock" / f".torknock-{PORT}.spent.torknock").unlink(missing_ok=True)
        filler = self.fill()
        self.hidden.said.clear()
        self.hidden.start()
        self.assertNotEqual(self.knock(token), GREETING)
        self.assertNotEqual(self.knock(next(self.fresh)), GREETING)
        self.assertTrue(any("space" in told for told in self.hidden.said), self.hidden.said)
        filler.unlink()
        if any("SMETHOD-ERROR" in told for told in self.hidden.said):
            self.restart()
        self.assertTrue(wait_for(self.opens), self.hidden.said)
        self.assertEqual(self.knock(token), self.closed)


class OwnGateDiskTests(FullDisks):
    """With CAP_NET_ADMIN."""

    n = 350

    def test_nothing_opens_again_after_the_disk_was_full(self) -> None:
        """Every connection that was served on a full disk is refused after SIGKILL and a start; they fill a page."""
        self.fill()
        served = []
        for token in self.fresh:
            if self.knock(token) != GREETING:
                break
            served.append(token)
        self.hidden.process.kill()
        self.hidden.process.wait()
        (self.small / "filler").unlink()
        self.hidden.said.clear()
        self.hidden.start()
        last = served[:-200:-1]  # the newest first
        again = [token for token in last if self.knock(token) == GREETING]
        self.assertEqual(again, [], f"{len(again)} of {len(last)} open again")


class FilterDiskTests(FullDisks):
    """Without privilege."""

    helper = NOWHERE
    closed = "silence"


class SmallDiskTests(SynchronousTestCase):
    """The file alone, on a file system of eight pages."""

    skip = needs_root

    def setUp(self) -> None:
        self.small = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(self.small.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,mode=700", "none", str(self.small)], check=True)
        self.addCleanup(subprocess.run, ["umount", str(self.small)], check=True)

    def opened(self) -> SpentTokens:
        spent = SpentTokens(self.small / "spent")
        self.addCleanup(spent.close)
        return spent

    def fill(self) -> Path:
        """Take all the room there is."""
        return fill(self.small)

    def test_an_epoch_that_ends_on_a_full_disk_loses_nothing(self) -> None:
        """The old file stays until the new one is whole: for this process, and for one that comes after it."""
        spent = self.opened()
        spent.enter(7)
        spent.reserve(250)
        filler = self.fill()
        known = {(7, isn) for isn in range(1, 251)}
        for epoch, isn in sorted(known):
            spent.add(epoch, isn)
        self.assertIn("space", str(self.assertRaises(SpentUnusable, spent.enter, 8)))
        with self.assertRaises(SpentUnusable):
            spent.add(8, 1)
        self.assertRaises(SpentUnusable, self.opened().enter, 8)
        filler.unlink()
        self.assertEqual(self.opened().enter(8), known)
        self.assertEqual(spent.enter(8), known)

    def test_a_record_that_is_cut_off_opens_nothing(self) -> None:
        """Where no room was reserved: it is refused, what was whole stays, and nothing is shifted."""
        spent = self.opened()
        spent.enter(7)
        filler = self.fill()
        written = set()
        with self.assertRaises(SpentUnusable):
            for isn in range(1, 1000):
                spent.add(7, isn)
                written.add((7, isn))
        self.assertRaises(SpentUnusable, spent.add, 7, 1000)
        self.assertGreater(len(written), 200)
        filler.unlink()
        self.assertEqual(self.opened().enter(7), written)
        self.assertEqual(spent.enter(7, [(7, 1000)]), written | {(7, 1000)})
        spent.add(7, 1001)
        self.assertEqual(self.opened().enter(7), written | {(7, 1000), (7, 1001)})


del AnyGate, ClockSteps, FullDisks  # trial runs what a module holds: the gates are their subclasses
