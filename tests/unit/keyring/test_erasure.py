"""Tests of torknock.keyring.erasure: what the keyring can still derive, and when it cannot any more."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from torknock.keyring.erasure import Forgetting
from torknock.keyring.lines import Keyring
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.token import EPOCH

NOW = 1_700_000_100.0
E = int(NOW // EPOCH)


class ForgettingTests(SynchronousTestCase):
    """A keyring and a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.set_by = 0.0
        self.directory = Path(self.mktemp()).absolute()
        self.keyring = Keyring.open(self.directory, create=True, timeout=0.0)
        self.addCleanup(self.keyring.close)
        self.alice = self.keyring.add("alice", expires=None, now=NOW).line
        queue = KeyringQueue(self.keyring, self.clock)
        self.forgetting = Forgetting(queue, self.clock, lambda: NOW + self.set_by + self.clock.seconds())
        self.addCleanup(self.forgetting.stop)

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([10.0] * round(seconds / 10))

    def begins(self) -> int:
        """The first epoch that can be derived from the keyring."""
        return self.keyring.get("alice").line.first_epoch - E

    def test_what_has_been_over_for_an_epoch_is_erased(self) -> None:
        """Less is kept: an epoch that could be open on a clock that is a little behind."""
        self.forgetting.start()
        self.assertEqual(self.begins(), -1)
        for later in range(1, 9):
            self.pass_time(EPOCH)
            self.assertIn(self.begins(), (later - 2, later - 1) if later > 1 else (-1,))
        self.assertEqual(self.keyring.get("alice").line, self.alice.forward(E + self.begins()))

    def test_a_clock_that_was_wrong_for_a_moment_costs_nothing(self) -> None:
        """Nor does one that is wrong at the start, and set within 5 minutes."""
        self.set_by = 86_400.0
        self.forgetting.start()
        self.pass_time(EPOCH - 20)
        self.set_by = 0.0
        self.pass_time(EPOCH)
        self.assertLess(self.begins(), 2)
        for _ in range(4):
            self.set_by = 3600.0
            self.pass_time(60)
            self.set_by = 0.0
            self.pass_time(60)
        self.assertLess(self.begins(), 4)
        self.assertTrue(self.keyring.get("alice").line.tokens(E + 5))

    def test_an_expired_line_is_erased(self) -> None:
        """Not by a clock that was wrong for a moment, at the start of the bridge or later: that is for good."""
        self.keyring.add("bob", expires=int(NOW) + 3600, now=NOW)
        self.keyring.add("carol", expires=int(NOW) + EPOCH, now=NOW)
        self.set_by = 86_400.0
        self.forgetting.start()
        self.pass_time(EPOCH - 20)
        self.set_by = 0.0
        self.pass_time(EPOCH)
        self.assertFalse(self.keyring.get("bob").erased)
        self.pass_time(2 * EPOCH)
        self.assertTrue(self.keyring.get("carol").erased)
        self.assertFalse(self.keyring.get("bob").erased)

    def test_a_line_that_was_issued_later_is_carried_on_too(self) -> None:
        """By another process."""
        self.forgetting.start()
        self.pass_time(3 * EPOCH)
        with Keyring.open(self.directory, create=False) as elsewhere:
            elsewhere.add("bob", expires=None, now=NOW)
        self.pass_time(30)
        self.assertEqual(self.keyring.get("bob").line.first_epoch, self.keyring.get("alice").line.first_epoch)

    def test_a_keyring_that_cannot_be_written_is_said_once(self) -> None:
        """And tried again."""
        self.pass_time(10)
        self.forgetting.start()
        with closing(sqlite3.connect(self.directory / "keyring.sqlite", isolation_level=None)) as database:
            database.execute("CREATE TRIGGER t BEFORE UPDATE ON line BEGIN SELECT RAISE(ABORT, 'disk full'); END")
            with capturedLogs() as logs:
                self.pass_time(3 * EPOCH)
            self.assertEqual([log["log_level"] for log in logs], [LogLevel.error])
            database.execute("DROP TRIGGER t")
        self.pass_time(60)
        self.assertGreaterEqual(self.begins(), 1)

    def test_a_keyring_that_another_program_holds_is_said_once(self) -> None:
        """By all who ask together, and once that it is over; what is over is erased then."""
        self.forgetting.start()
        self.pass_time(EPOCH)
        for begin in ("BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"):
            with closing(sqlite3.connect(self.directory / "keyring.sqlite", isolation_level=None)) as holder:
                holder.execute(begin)
                before = holder.execute("SELECT secret FROM line").fetchall()
                with capturedLogs() as logs:
                    self.pass_time(3 * EPOCH)
                    self.assertEqual(holder.execute("SELECT secret FROM line").fetchall(), before)
                    holder.execute("ROLLBACK")
                    self.pass_time(60)
                self.assertEqual([log["log_level"] for log in logs], [LogLevel.warn] * 2)
                self.assertNotEqual(holder.execute("SELECT secret FROM line").fetchall(), before)
