"""Tests of torknock.bridge.keeper: what opens when, with a gate that only remembers."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory_gate import MemoryGate
from torknock.bridge.books import Books
from torknock.bridge.calendar import Calendar
from torknock.bridge.keeper import Keeper
from torknock.bridge.known_lines import KnownLines
from torknock.bridge.ledger import SpentKnocks, SpentTokens, SpentUnusable
from torknock.bridge.spending import Spending
from torknock.errors import TorknockError
from torknock.interfaces import DoorTaken, GateFailed
from torknock.keyring.issued import Issued
from torknock.keyring.lines import Keyring
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.bridge_line import Scheme
from torknock.protocol.knock import isn
from torknock.protocol.syn import SYN
from torknock.protocol.token import EPOCH, epoch_at, tokens

NOW = 1_700_000_100.0
E = int(NOW // EPOCH)


class KeeperTests(SynchronousTestCase):
    """A gate, a keyring and a calendar, kept in step."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.set_by = 0.0
        self.refusing: TorknockError | None = None
        self.directory = Path(self.mktemp()).absolute()
        self.keyring = Keyring.open(self.directory, create=True, timeout=0.0)
        self.addCleanup(self.keyring.close)
        self.alice = self.keyring.add("alice", expires=None, now=NOW)
        self.gate = MemoryGate(self.clock)
        self.keeper = self.another()

    def another(
        self,
        no_knocks: str = "",
        in_thread: Callable[..., Deferred[None]] = execute,
        keyring_in: Callable[..., Deferred[Any]] = execute,
    ) -> Keeper:
        books = Books(SpentTokens(self.directory / "spent"), SpentKnocks(self.directory / "knocks"), in_thread)
        self.spending = Spending(books, self.clock, Calendar(self.now, self.clock.seconds).now)
        self.lines = lines = KnownLines(KeyringQueue(self.keyring, self.clock, keyring_in), no_knocks=no_knocks)
        return Keeper(lines, self.spending, self.gate, lambda: self.refusing)

    def now(self) -> float:
        """What the wall clock says."""
        return NOW + self.set_by + self.clock.seconds()

    def started(self) -> None:
        starting = Deferred.fromCoroutine(self.keeper.start())
        self.pass_time(0.1)
        self.successResultOf(starting)

    def pass_time(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / 0.1))):
            self.clock.advance(0.1)

    def tokens_of(self, issued: Issued, *epochs: int) -> set[int]:
        line = issued.line
        return {isn for epoch in epochs for isn in tokens(line.secret, line.bridge_name, epoch, line.n)}

    def test_a_line_is_known_to_be_revoked_within_two_seconds(self) -> None:
        """And another line is not."""
        bob = self.keyring.add("bob", expires=None, now=NOW)
        self.started()
        self.assertFalse(self.lines.is_revoked(self.alice))
        self.keyring.revoke("alice", now=self.now())
        self.pass_time(2)
        self.assertTrue(self.lines.is_revoked(self.alice))
        self.assertFalse(self.lines.is_revoked(bob))

    def test_three_epochs_open(self) -> None:
        """The present epoch's tokens and its neighbours' are valid (protocol.md §2.3)."""
        self.started()
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))

    def test_tokens_follow_the_calendar(self) -> None:
        """An epoch later, one epoch has gone and one has come."""
        self.started()
        self.pass_time(EPOCH + 1)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E, E + 1, E + 2))
        self.pass_time(5 * EPOCH)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E + 5, E + 6, E + 7))

    def test_tokens_open_for_their_line_after_an_epoch(self) -> None:
        """A connection belongs to the line in every epoch that is valid, however long the bridge has run."""
        self.started()
        used: set[int] = set()
        for later in (1, 2, 7):
            self.pass_time(EPOCH * later + 1 - self.clock.seconds())
            for epoch in (E + later - 1, E + later, E + later + 1):
                token = max((self.tokens_of(self.alice, epoch) & self.gate.opens) - used)
                used.add(token)
                self.assertEqual([issued.name for issued in self.spending.spend(token)], ["alice"], (later, epoch))

    def test_a_token_opens_to_the_end_of_its_last_epoch(self) -> None:
        """Whatever fraction of a second the bridge began with, and no second longer."""
        for fraction in (0.0, 0.3, 0.7):
            self.setUp()
            self.clock.advance(fraction)
            self.started()
            self.pass_time(EPOCH - 0.2 - self.clock.seconds())
            last = self.tokens_of(self.alice, E - 1)
            self.assertEqual(last - self.gate.opens, set())
            self.pass_time(1.2)
            self.assertEqual(last & self.gate.opens, set())

    def test_a_connection_that_stands_after_its_epoch_is_its_lines(self) -> None:
        """Its SYN came in time; it opens once. A minute later, no such connection can come."""
        opened: set[int] = set()
        bob = self.keyring.add("bob", expires=None, now=NOW, secret=b"s" * 32)
        self.started()
        self.pass_time(EPOCH + 0.2 - self.clock.seconds())
        for seconds, names in ((0, ["alice", "bob"]), (8, ["alice", "bob"]), (70, [])):
            self.pass_time(seconds)
            found: list[Issued] = []
            for issued in (self.alice, bob):
                isn = min(self.tokens_of(issued, E - 1) - opened)
                opened.add(isn)
                found += self.spending.spend(isn)
                self.assertEqual(self.spending.spend(isn), ())
            self.assertEqual([issued.name for issued in found], names)
        self.assertEqual(self.keeper.tokens, 2 * 3 * 8)

    def test_a_keeper_that_hangs_leaves_nothing_open(self) -> None:
        """Tokens run out by themselves when the process hangs or dies."""
        self.started()
        self.clock.rightNow += 3 * EPOCH
        self.assertEqual(self.gate.opens, set())

    def test_a_token_belongs_to_its_line_once(self) -> None:
        """The second connection with it finds nobody."""
        self.started()
        isn = min(self.tokens_of(self.alice, E))
        self.assertEqual([issued.name for issued in self.spending.spend(isn)], ["alice"])
        self.assertEqual(self.spending.spend(isn), ())

    def test_a_new_line_opens_within_two_seconds(self) -> None:
        """Another process adds it; nothing is restarted."""
        self.started()
        with Keyring.open(self.directory, create=False) as elsewhere:
            bob = elsewhere.add("bob", expires=None, now=self.now())
        self.pass_time(2)
        self.assertTrue(self.tokens_of(bob, E - 1, E, E + 1) <= self.gate.opens)

    def test_the_first_line_of_a_bridge_opens_within_two_seconds(self) -> None:
        """A bridge is started before its first line is made."""
        self.keyring.revoke("alice", now=NOW)
        self.started()
        bob = self.keyring.add("bob", expires=None, now=NOW)
        self.pass_time(2)
        self.assertEqual(self.gate.opens, self.tokens_of(bob, E - 1, E, E + 1))

    def test_a_revoked_line_opens_nothing_within_two_seconds(self) -> None:
        """Its tokens are withdrawn, and a connection that one had just opened belongs to nobody."""
        self.started()
        with Keyring.open(self.directory, create=False) as elsewhere:
            elsewhere.revoke("alice", now=self.now())
        self.pass_time(2)
        self.assertEqual(self.gate.opens, set())
        self.assertEqual(self.spending.spend(min(self.tokens_of(self.alice, E))), ())

    def test_a_line_with_the_name_of_another(self) -> None:
        """As after a withdrawal, or in a keyring that was put back: it opens, and the former does not."""
        self.keyring.add("bob", expires=None, now=NOW)
        self.started()
        self.keyring.withdraw("bob")
        again = self.keyring.add("bob", expires=None, now=NOW)
        self.pass_time(2)
        self.assertEqual(
            self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1) | self.tokens_of(again, E - 1, E, E + 1)
        )

    def test_a_line_that_is_carried_on_in_the_keyring_stays(self) -> None:
        """Nothing is withdrawn and admitted again for it."""
        self.started()
        self.pass_time(2 * EPOCH)
        before = self.gate.opens
        self.keyring.advance(E + 1, 10)
        self.keyring.add("bob", expires=None, now=NOW)
        self.pass_time(2)
        self.assertTrue(before <= self.gate.opens)

    def test_an_expired_line_opens_nothing(self) -> None:
        """Nobody has to do anything for it."""
        bob = self.keyring.add("bob", expires=int(NOW) + 60, now=NOW)
        self.started()
        self.assertTrue(self.tokens_of(bob, E) <= self.gate.opens)
        self.pass_time(62)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))

    def test_a_clock_that_is_wrong_at_the_start_erases_nothing(self) -> None:
        """A line that it takes for expired lives again once the clock is right."""
        self.keyring.add("bob", expires=int(NOW) + 3600, now=NOW)
        self.set_by = 86_400.0
        self.keeper = self.another()
        self.started()
        self.assertEqual(set(self.keeper.live), {"alice"})
        self.assertFalse(self.keyring.get("bob").erased)

    def test_a_gate_that_was_flushed_is_filled_without_what_was_spent(self) -> None:
        """`nft flush ruleset` opens nothing for a second time."""
        self.started()
        used = min(self.tokens_of(self.alice, E))
        self.spending.spend(used)
        self.gate.lose()
        self.pass_time(2)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1) - {used})

    def test_a_process_that_starts_anew_opens_nothing_for_a_second_time(self) -> None:
        """What was spent is in the keyring."""
        self.started()
        used = min(self.tokens_of(self.alice, E))
        self.spending.spend(used)
        self.successResultOf(Deferred.fromCoroutine(self.keeper.stop()))
        self.keeper = self.another()
        self.started()
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1) - {used})

    def test_a_clock_that_is_set_fills_the_gate_anew(self) -> None:
        """A day forward: what opens is what is valid at the date that is told, once it has been told for a minute."""
        self.started()
        self.set_by = 86_400.0
        self.pass_time(59)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))
        self.pass_time(3)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E + 287, E + 288, E + 289))

    def spent(self) -> int:
        """A token that has opened its connection."""
        token = max(self.tokens_of(self.alice, E))
        self.assertEqual([issued.name for issued in self.spending.spend(token)], ["alice"])
        return token

    def test_a_clock_that_is_stepped_for_a_moment_revives_nothing(self) -> None:
        """The bridge goes on with the date that it knew; it opens as before, less what was spent."""
        self.started()
        token = self.spent()
        for ahead in (1200.0, 3600.0, -3600.0, 365 * 86_400.0):
            self.set_by = ahead
            self.pass_time(3)
            self.assertEqual(self.gate.opens | {token}, self.tokens_of(self.alice, E - 1, E, E + 1), ahead)
            self.set_by = 0.0
            self.pass_time(3)
            self.assertEqual(self.spending.spend(token), (), ahead)
            self.restart()
            self.assertNotIn(token, self.gate.opens, ahead)

    def test_a_clock_that_was_ahead_for_long_opens_nothing_when_it_is_right_again(self) -> None:
        """What was spent before may be forgotten: until the time that it told has come, the port is closed, and why."""
        self.started()
        token = self.spent()
        self.set_by = 3600.0
        self.pass_time(62)
        self.set_by = 0.0
        with capturedLogs() as logs:
            self.pass_time(62)
        self.assertEqual(self.gate.opens, set())
        self.assertTrue(self.gate.standing)
        self.assertIn("no token opens before 2023-11-14 23:05 UTC", self.keeper.trouble)
        told = [log for log in logs if log["log_level"] == LogLevel.error]
        self.assertEqual([log["reason"] for log in told], [self.keeper.trouble])
        self.restart()
        self.assertEqual(self.gate.opens, set())
        self.assertEqual(self.spending.spend(token), ())
        self.assertIn("2023-11-14 23:05 UTC", self.keeper.trouble)
        self.pass_time(9 * EPOCH)
        self.assertTrue(self.keeper.trouble)
        self.pass_time(2 * EPOCH)
        self.assertEqual(self.keeper.trouble, "")
        self.assertTrue(self.gate.opens)

    def test_a_clock_that_is_behind_at_the_start_opens_nothing(self) -> None:
        """An hour behind, started, right again: what was spent stays spent, and the rest opens after a minute."""
        self.started()
        token = self.spent()
        self.set_by = -3600.0
        self.restart()
        self.assertEqual(self.gate.opens, set())
        self.set_by = 0.0
        self.pass_time(62)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1) - {token})

    def test_a_clock_that_begins_with_1970_is_followed_when_it_is_set(self) -> None:
        """As that of a host without a battery."""
        self.set_by = -NOW
        self.started()
        self.set_by = 0.0
        self.pass_time(62)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))

    def test_a_clock_that_is_slewed_is_followed(self) -> None:
        """As NTP does it, here by 10 minutes."""
        self.started()
        for _ in range(600):
            self.set_by += 1.0
            self.pass_time(1)
        self.pass_time(1)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E + 3, E + 4, E + 5))

    def test_a_token_of_nobody_is_spent(self) -> None:
        """One that was let in while the gate was filled or its line revoked does not open when all is well again."""
        self.started()
        token = max(self.tokens_of(self.alice, E))
        self.refusing = TorknockError("tor takes no clients")
        self.pass_time(1)
        self.assertEqual(self.spending.spend(token), ())
        self.refusing = None
        self.pass_time(2)
        self.assertTrue(self.gate.opens)
        self.assertNotIn(token, self.gate.opens)
        self.restart()
        self.assertNotIn(token, self.gate.opens)

    def test_a_file_that_is_removed_closes_the_gate_and_loses_nothing(self) -> None:
        """A record that goes to a file without a name is none; what was spent is written to the next one."""
        self.started()
        before = self.spent()
        (self.directory / "spent").unlink()
        token = min(self.tokens_of(self.alice, E))
        with capturedLogs() as logs:
            self.assertEqual(self.spending.spend(token), ())
            self.pass_time(0.6)
            self.assertFalse(self.gate.standing)
            self.pass_time(1)
        self.assertEqual([log["log_level"] for log in logs], [LogLevel.error, LogLevel.warn])  # and open again
        self.restart()
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1) - {before, token})

    def test_a_connection_is_answered_for_once_its_record_is_on_the_disk(self) -> None:
        """Many wait for one sync; if it fails, they are dropped and the gate is closed."""
        syncs: list[tuple[Deferred[None], int]] = []

        def later(_sync: object, handle: int) -> Deferred[None]:
            self.addCleanup(os.close, handle)
            syncs.append((Deferred(), handle))
            return syncs[-1][0]

        self.keeper = self.another(in_thread=later)
        self.started()
        first, second, third, fourth = sorted(self.tokens_of(self.alice, E))[:4]
        asked = [self.asked(token) for token in (first, second, third)]
        for waiting in asked:
            self.assertNoResult(waiting)
        syncs.pop()[0].callback(None)
        self.assertEqual([issued.name for issued in self.successResultOf(asked[0])], ["alice"])
        self.assertNoResult(asked[1])
        syncs.pop()[0].callback(None)
        self.assertEqual([len(self.successResultOf(waiting)) for waiting in asked[1:]], [1, 1])
        refused = self.asked(fourth)
        syncs.pop()[0].errback(SpentUnusable(self.directory / "spent", "Input/output error"))
        self.assertEqual(self.successResultOf(refused), ())
        self.pass_time(0.6)
        self.assertFalse(self.gate.standing)

    def test_a_line_that_is_revoked_while_its_record_is_written_opens_nothing(self) -> None:
        """The connection waits for the disk, and the keyring is read meanwhile."""
        syncs: list[Deferred[None]] = []

        def later(_sync: object, handle: int) -> Deferred[None]:
            os.close(handle)
            syncs.append(Deferred())
            return syncs[-1]

        self.keeper = self.another(in_thread=later)
        self.started()
        waiting = self.asked(min(self.tokens_of(self.alice, E)))
        self.keyring.revoke("alice", now=NOW)
        self.pass_time(2)
        self.assertNoResult(waiting)
        syncs.pop().callback(None)
        self.assertEqual(self.successResultOf(waiting), ())

    def test_a_connection_is_answered_for_where_no_thread_can_be_had(self) -> None:
        """The reactor syncs its record, and no descriptor is left open."""

        def no_thread(_sync: object, handle: int) -> Deferred[None]:
            handles.append(handle)
            raise RuntimeError("can't start new thread")

        handles: list[int] = []
        self.keeper = self.another(in_thread=no_thread)
        self.started()
        served = self.successResultOf(self.asked(min(self.tokens_of(self.alice, E))))
        self.assertEqual([issued.name for issued in served], ["alice"])
        self.assertRaises(OSError, os.fstat, handles[0])

    def test_a_token_brings_its_epochs_key(self) -> None:
        """What a connection is proved by is derived from the epoch of its token, whatever the present one is."""
        self.started()
        for epoch in (E - 1, E, E + 1):
            [issued] = self.spending.spend(max(self.tokens_of(self.alice, epoch)))
            self.assertEqual(issued.line, self.alice.line.forward(epoch))

    def test_a_bridge_that_runs_for_a_day_carries_its_lines_on(self) -> None:
        """What it derives in an epoch stays a few steps away, over midnight too."""
        self.started()
        for _ in range(300):
            self.clock.pump([EPOCH / 2, 0, 0.1, 0.1, EPOCH / 2 - 0.2, 0])
        self.pass_time(1)
        present = int(self.now() // EPOCH)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, present - 1, present, present + 1))
        self.assertGreater(self.spending.admission.live["alice"].line.first_epoch, present - 15)

    def test_a_line_of_version_1_opens_as_it_did(self) -> None:
        """In every epoch, and its proof is the same in all."""
        bob = self.keyring.add("bob", expires=None, now=NOW, secret=b"s" * 32)
        self.started()
        self.pass_time(EPOCH + 1)
        for epoch in (E, E + 1, E + 2):
            [issued] = self.spending.spend(max(self.tokens_of(bob, epoch)))
            self.assertEqual(issued.line, bob.line)

    def asked(self, token: int) -> Deferred[tuple[Issued, ...]]:
        """The answer for a connection that *token* has opened."""
        syn = SYN("192.0.2.1", 40000, bytes([192, 0, 2, 7]), 443, token, 7)
        return Deferred.fromCoroutine(self.spending.lines_for(syn))

    def test_a_successor_that_waited_for_the_door_knows_what_was_spent_meanwhile(self) -> None:
        """It has read the ledger when it first tried, and reads it again when it has the door."""
        self.started()
        self.gate = MemoryGate(self.clock)
        self.gate.refuses = DoorTaken("another process guards it")
        predecessor, earlier, self.keeper = self.keeper, self.spending, self.another()
        starting = Deferred.fromCoroutine(self.keeper.start())
        self.pass_time(0.1)
        self.failureResultOf(starting, DoorTaken)
        token = max(self.tokens_of(self.alice, E))
        earlier.spend(token)
        self.pass_time(2)
        self.successResultOf(Deferred.fromCoroutine(predecessor.stop()))
        self.gate.refuses = None
        self.started()
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1) - {token})

    def restart(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.keeper.stop()))
        self.keeper = self.another()
        self.started()

    def test_a_gate_that_cannot_be_changed_is_taken_away_and_made_anew(self) -> None:
        """A line that could not be withdrawn does not stay open; the trouble is said once."""
        self.started()
        self.gate.refuses = GateFailed("nft ended with 1")
        self.keyring.revoke("alice", now=self.now())
        with capturedLogs() as events:
            self.pass_time(5)
        self.assertFalse(self.gate.standing)
        errors = [event for event in events if event["log_level"] >= LogLevel.error]
        self.assertEqual([event["reason"] for event in errors], ["nft ended with 1"])
        self.gate.refuses = None
        self.pass_time(2)
        self.assertTrue(self.gate.standing)
        self.assertEqual(self.gate.opens, set())

    def test_no_error_ends_the_bridge(self) -> None:
        """Not one that nobody foresaw either: closed meanwhile, said once, tried again, open once it is over."""
        no_files, no_fork = OSError(24, "Too many open files"), BlockingIOError(11, "Resource temporarily unavailable")
        for error in (no_files, no_fork, MemoryError(), TypeError("a mistake")):
            with self.subTest(error=error):
                self.started()
                self.gate.refuses = error
                self.gate.lose()
                with capturedLogs() as events:
                    self.pass_time(20)
                self.assertEqual(self.gate.opens, set())
                self.assertIn(type(error).__name__, self.keeper.trouble)
                self.assertEqual(len([event for event in events if event["log_level"] >= LogLevel.error]), 1)
                self.gate.refuses = None
                self.pass_time(31)
                self.assertEqual(self.keeper.trouble, "")
                self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))
                self.setUp()

    def test_a_client_that_could_not_be_served_is_not_let_in(self) -> None:
        """Closed within a second, said once, and open again with what was not spent once it can be."""
        self.started()
        token = self.spent()
        with capturedLogs() as events:
            self.refusing = TorknockError("tor takes no clients")
            self.pass_time(1)
            self.assertEqual((self.gate.opens, self.keeper.trouble), (set(), "tor takes no clients"))
            self.assertFalse(self.gate.standing)
            self.pass_time(2 * EPOCH)
            self.refusing = None
            self.pass_time(1)
        now = epoch_at(self.now())
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, now - 1, now, now + 1) - {token})
        self.assertEqual(len([event for event in events if event["log_level"] >= LogLevel.warn]), 2)

    def test_a_keyring_that_is_lost_closes_the_gate(self) -> None:
        """What cannot be read may have been revoked."""
        self.started()
        self.keyring.close()
        self.pass_time(2)
        self.assertEqual(self.gate.opens, set())
        self.assertFalse(self.gate.standing)

    def whose(self, syn: SYN) -> tuple[Issued, ...]:
        return self.successResultOf(Deferred.fromCoroutine(self.spending.lines_for(syn)))

    def knocking(self, name: str) -> SYN:
        """A knock of a new line."""
        with Keyring.open(self.directory, create=False) as elsewhere:
            line = elsewhere.add(name, scheme=Scheme.KNOCK, expires=None, now=self.now()).line
        address = bytes([192, 0, 2, 7])
        return SYN("192.0.2.1", 40000, address, 443, isn(line.secret, address, 443, 7, None), 7)

    def test_a_knock_line_is_judged_by(self) -> None:
        """Within 2 s; the gate asks only while there is one; tokens go on to open; and nothing is admitted for it."""
        self.started()
        self.assertFalse(self.gate.judging)
        syn = self.knocking("carol")
        self.assertEqual(self.spending.judge([syn]), [False])
        self.pass_time(2)
        self.assertTrue(self.gate.judging)
        self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))
        self.assertEqual(self.spending.judge([syn]), [True])
        self.assertEqual([issued.name for issued in self.whose(syn)], ["carol"])
        self.assertEqual(self.whose(syn), ())

    def test_the_first_knock_line_has_room_on_the_disk_before_it_opens(self) -> None:
        """So a disk that is full is found out before a knock comes."""
        self.started()
        before = (self.directory / "knocks").stat().st_size
        self.knocking("carol")
        self.pass_time(2)
        self.assertTrue(self.gate.judging)
        self.assertGreater((self.directory / "knocks").stat().st_size, before)

    def test_where_knocks_are_not_served_nothing_is_judged(self) -> None:
        """The gate never asks, tokens go on to open, and which lines open nothing is told for as long as they live."""
        self.keeper = self.another("the posture is closed")
        before = self.knocking("carol")
        with capturedLogs() as logs:
            self.started()
            later = self.knocking("dave")
            self.pass_time(2)
            self.assertFalse(self.gate.judging)
            self.assertEqual(self.spending.judge([before, later]), [False, False])
            self.assertEqual((self.whose(before), list(self.keeper.live)), ((), ["alice"]))
            self.assertEqual(self.keeper.tokens, len(self.gate.opens))
            self.assertEqual(self.gate.opens, self.tokens_of(self.alice, E - 1, E, E + 1))
            self.assertEqual(self.keeper.ignored, "2 lines of scheme knock open nothing: the posture is closed")
            self.keyring.set_expiry("dave", int(self.now()) + 1)
            self.keyring.revoke("carol", self.now())
            self.pass_time(3)
        self.assertEqual(self.keeper.ignored, "")
        told = [log["told"] for log in logs if log["log_level"] == LogLevel.warn]
        self.assertEqual(told[0], "1 line of scheme knock opens nothing: the posture is closed")

    def test_where_knocks_are_served_none_is_ignored(self) -> None:
        """And the log is silent."""
        self.knocking("carol")
        with capturedLogs() as logs:
            self.started()
        self.assertEqual((self.keeper.ignored, logs), ("", []))

    def test_a_revoked_knock_line_opens_nothing_within_two_seconds(self) -> None:
        """And a connection that it had just opened belongs to nobody; the last one gone, nothing is asked any more."""
        self.started()
        syns = [self.knocking(name) for name in ("carol", "dave")]
        self.pass_time(2)
        self.assertEqual(self.spending.judge(syns[:1]), [True])
        for name, stays in (("carol", True), ("dave", False)):
            self.keyring.revoke(name, self.now())
            self.pass_time(2)
            self.assertEqual(self.gate.judging, stays)
            self.assertEqual(self.whose(syns[0]), ())
        self.assertEqual(self.spending.judge(syns), [False, False])

    def test_a_process_that_starts_anew_refuses_the_knocks_it_let_in(self) -> None:
        """They are on the disk before they are let in."""
        syn = self.knocking("carol")
        self.started()
        self.assertEqual(self.spending.judge([syn]), [True])
        self.keeper = self.another()
        self.started()
        self.assertEqual(self.spending.judge([syn]), [False])

    def test_a_knock_that_cannot_be_written_down_is_refused(self) -> None:
        """The gate is closed until it can."""
        syn = self.knocking("carol")
        self.started()
        (self.directory / "knocks").unlink()
        with capturedLogs() as logs:
            self.assertEqual(self.spending.judge([syn]), [False])
            self.pass_time(0.6)
            self.assertFalse(self.gate.standing)
            self.pass_time(1)
        self.assertTrue(self.gate.standing)
        self.assertEqual([log["log_level"] for log in logs], [LogLevel.error, LogLevel.warn])  # and open again
        self.assertEqual(self.spending.judge([syn]), [True])

    def hold(self, begin: str = "BEGIN EXCLUSIVE") -> sqlite3.Connection:
        """Another program, that has begun to hold the keyring."""
        holder = sqlite3.connect(self.directory / "keyring.sqlite", isolation_level=None)
        self.addCleanup(holder.close)
        holder.execute(begin)
        return holder

    def test_while_another_program_holds_the_keyring_it_serves_what_it_knows(self) -> None:
        """Epochs come and go, a gate that was lost is made anew, lines expire; what was revoked since is heard then."""
        bob = self.keyring.add("bob", expires=int(NOW) + EPOCH, now=NOW)
        self.started()
        holder = self.hold()
        with capturedLogs() as logs:
            self.pass_time(EPOCH + 60)
            epoch = int(self.now() // EPOCH)
            near = epoch - 1, epoch, epoch + 1
            self.assertEqual(self.gate.opens, self.tokens_of(self.alice, *near))
            self.assertFalse(self.gate.opens & self.tokens_of(bob, epoch))
            self.gate.lose()
            self.pass_time(1)
            self.assertEqual(self.gate.opens, self.tokens_of(self.alice, *near))
            isn = next(iter(self.tokens_of(self.alice, epoch)))
            self.assertEqual([each.name for each in self.spending.spend(isn)], ["alice"])
            self.assertEqual(self.keeper.trouble, "")
            holder.execute("UPDATE line SET revoked = 1, secret = x'' WHERE name = 'alice'")
            holder.execute("UPDATE setting SET value = value + 1 WHERE key = 'revision'")
            holder.execute("COMMIT")
            self.pass_time(2)
            self.assertEqual(self.gate.opens, set())
        told = [log["log_format"].partition("{")[0] for log in logs if "keyring" in log["log_format"]]
        self.assertEqual(told, ["keyring ", "keyring "])

    def test_a_moment_in_which_the_keyring_is_held_is_not_said(self) -> None:
        """A command holds it so; so does who reads a lot, which hinders nobody."""
        self.started()
        with capturedLogs() as logs:
            for begin, seconds in (("BEGIN EXCLUSIVE", 1.5), ("BEGIN IMMEDIATE", 60)):
                holder = self.hold(begin)
                self.pass_time(seconds)
                holder.execute("ROLLBACK")
                self.pass_time(2)
        self.assertEqual(logs, [])

    def test_while_the_disk_of_the_keyring_does_not_answer_it_serves_what_it_knows(self) -> None:
        """One call waits, and none behind it; what it finds in the end is taken up."""
        calls: list[Callable[[], Deferred[None]]] = []

        def slow(call: Callable[..., object], *arguments: object) -> Deferred[Any]:
            answer: Deferred[Any] = Deferred()
            calls.append(lambda: execute(call, *arguments).chainDeferred(answer))
            return answer

        self.keeper = self.another(keyring_in=slow)
        starting = Deferred.fromCoroutine(self.keeper.start())
        calls.pop()()
        self.pass_time(0.1)
        self.successResultOf(starting)
        with capturedLogs() as logs:
            self.pass_time(EPOCH + 10)
            epoch = int(self.now() // EPOCH)
            self.assertEqual(self.gate.opens, self.tokens_of(self.alice, epoch - 1, epoch, epoch + 1))
            self.keyring.revoke("alice", self.now())
            (late,) = calls
            late()
            self.pass_time(0.6)
            self.assertEqual(self.gate.opens, set())
        self.assertEqual([log["log_level"] for log in logs], [LogLevel.warn] * 2)
        self.successResultOf(Deferred.fromCoroutine(self.keeper.stop()))

    def test_a_keyring_that_cannot_be_read_closes_the_port_however_slow_its_disk_is(self) -> None:
        """It opens no sooner than the keyring was read, and a lock is no such thing."""
        self.started()
        (self.directory / "keyring.sqlite").rename(self.directory / "away")
        self.pass_time(1)
        self.assertFalse(self.gate.standing)
        (self.directory / "away").rename(self.directory / "keyring.sqlite")
        holder = self.hold()
        self.pass_time(5)
        self.assertFalse(self.gate.standing)
        holder.execute("ROLLBACK")
        self.pass_time(2)
        self.assertTrue(self.gate.standing)

    def test_an_older_keyring_that_was_put_in_place_is_said(self) -> None:
        """Its operator is told which revoked lines open again."""
        self.started()
        self.keyring.add("bob", expires=None, now=NOW)
        file, backup = self.directory / "keyring.sqlite", self.directory / "backup"
        shutil.copy(file, backup)
        self.keyring.revoke("alice", NOW)
        self.pass_time(2)
        with capturedLogs() as logs:
            backup.replace(file)
            self.pass_time(2)
            self.keyring.revoke("bob", NOW)
            self.pass_time(2)
        self.assertEqual([log["names"] for log in logs], ["alice"])

    def test_stop_is_the_end_also_while_the_gate_is_closed_for_an_error(self) -> None:
        """No further step opens it again."""
        closing: list[Deferred[None]] = []

        def close() -> Deferred[None]:
            closing.append(Deferred())
            return closing[-1]

        self.started()
        self.patch(self.gate, "close", close)
        self.refusing = TorknockError("tor takes no clients")
        self.pass_time(1)
        self.assertEqual(len(closing), 1)
        stopping = Deferred.fromCoroutine(self.keeper.stop())
        closing[-1].callback(None)
        self.successResultOf(stopping)
        self.assertEqual((len(closing), self.clock.getDelayedCalls()), (2, []))

    def test_stop_leaves_nothing(self) -> None:
        """The gate is closed, and no call is left waiting."""
        self.started()
        self.successResultOf(Deferred.fromCoroutine(self.keeper.stop()))
        self.assertFalse(self.gate.standing)
        self.assertEqual(self.clock.getDelayedCalls(), [])
