"""Tests of torknock.bridge.counts and torknock.bridge.refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.keeper import QuietKeeper
from torknock.bridge.counts import Counts, Identity, Monitor
from torknock.bridge.status_report import LineInUse, Status, Trouble
from torknock.interfaces import GateFailed


class MonitorCase(SynchronousTestCase):
    """A monitor, and a gate that answers at once."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.keeper = QuietKeeper(answer=0)
        self.counts = Counts(self.clock)
        self.monitor = Monitor(self.clock, Identity("1.0", "closed", 443), self.counts, self.keeper)
        self.monitor.start()
        self.addCleanup(self.monitor.stop)
        self.clock.advance(2)

    def status(self) -> Status:
        """What is said now; a second passes first, so that the gate is asked."""
        self.clock.advance(1)
        return self.successResultOf(Deferred.fromCoroutine(self.monitor.status()))

    def troubles(self) -> list[Trouble]:
        """What is warned of."""
        return [warned.trouble for warned in self.status().warnings]


class CountTests(MonitorCase):
    """Connections and lines."""

    def test_a_bridge_that_nobody_has_found_yet(self) -> None:
        """Everything is 0, and nothing is warned of."""
        self.assertEqual(
            self.status(),
            Status(
                version="1.0",
                uptime=3,
                posture="closed",
                port=443,
                connections=0,
                opened=0,
                let_in=0,
                refused=0,
                given_nothing=0,
                lines=1,
                lines_in_use=0,
                tokens=24,
                held=24,
                in_use=(),
                warnings=(),
            ),
        )

    def test_connections_are_counted_by_line(self) -> None:
        """Now, and since the start; a line without a connection is not in use."""
        self.counts.count("let_in")
        closed = self.counts.opened("bob", lambda: None)
        self.counts.opened("alice", lambda: None)
        self.counts.opened("bob", lambda: None)
        closed()
        closed()
        status = self.status()
        self.assertEqual(status.in_use, (LineInUse("alice", 1, 1), LineInUse("bob", 1, 2)))
        self.assertEqual((status.connections, status.opened, status.let_in), (2, 3, 1))

    def test_what_was_counted_longer_ago_is_not_within_the_time(self) -> None:
        """And what was never counted is not."""
        self.assertFalse(self.counts.within("let_in", 5.0))
        self.counts.count("let_in")
        self.clock.advance(4.0)
        self.assertTrue(self.counts.within("let_in", 5.0))
        self.clock.advance(1.0)
        self.assertFalse(self.counts.within("let_in", 5.0))

    def test_only_what_the_table_of_figures_has_is_counted(self) -> None:
        """A counter that would appear nowhere is an error at its first use."""
        self.assertRaises(KeyError, self.counts.count, "unheard of")

    @given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans())))
    def test_no_order_of_events_makes_a_wrong_sum(self, events: Sequence[tuple[str, bool]]) -> None:
        """The connections of the lines are the connections, and what is used is asked for once."""
        self.setUp()
        for name, closes in events:
            closed = self.counts.opened(name, lambda: None)
            if closes:
                closed()
        status = self.status()
        self.assertEqual(status.connections, sum(not closes for _name, closes in events))
        self.assertEqual(status.connections, sum(line.connections for line in status.in_use))
        self.assertEqual(sum(self.counts.used().values()), len(events))
        self.assertEqual(self.counts.used(), {})

    def test_a_line_is_cut(self) -> None:
        """All its connections and no others, also when each is gone at once."""
        cut: list[str] = []
        closers: dict[str, Callable[[], None]] = {}
        for number, name in enumerate(("alice", "bob", "alice")):

            def abort(key: str = f"{name}{number}") -> None:
                cut.append(key)
                closers[key]()

            closers[f"{name}{number}"] = self.counts.opened(name, abort)
        self.assertEqual(self.counts.cut("alice"), 2)
        self.assertEqual(cut, ["alice0", "alice2"])
        self.assertEqual(self.counts.cut("alice"), 0)
        self.assertEqual(self.status().connections, 1)


class HeldTests(MonitorCase):
    """Tokens that the kernel holds."""

    def held(self, count: Deferred[int | None] | int | None) -> tuple[int | None, list[Trouble]]:
        """What the status says of the kernel some seconds later, when the gate says *count*."""
        self.keeper.kernel = count
        self.clock.advance(6)
        status = self.status()
        return status.held, [warned.trouble for warned in status.warnings]

    def test_tokens_that_another_program_has_removed_are_missed(self) -> None:
        """A few may be spent between the two counts; what is not known is no reason for an alarm."""
        self.assertEqual(self.held(24), (24, []))
        self.assertEqual(self.held(22), (22, []))
        self.assertEqual(self.held(3), (3, [Trouble.TOKENS_MISSING]))
        self.assertEqual(self.held(0), (0, [Trouble.TOKENS_MISSING]))
        self.assertEqual(self.held(None), (None, []))
        self.assertEqual(self.held(fail(GateFailed("closed"))), (None, []))

    def test_a_gate_that_is_slow_is_not_waited_for(self) -> None:
        """The status has what was said last."""
        self.held(20)
        self.keeper.kernel = Deferred()
        self.clock.advance(6)
        waiting = Deferred.fromCoroutine(self.monitor.status())
        self.clock.advance(2)
        self.assertEqual(self.successResultOf(waiting).held, 20)


class RefusalTests(MonitorCase):
    """SYNs that the gate has refused."""

    def test_the_gate_is_asked_once_a_second_at_most(self) -> None:
        """However many ask for the status."""
        self.status()
        asked = self.keeper.asked
        for _ in range(10):
            self.successResultOf(Deferred.fromCoroutine(self.monitor.status()))
        self.assertEqual(self.keeper.asked, asked)

    def test_a_gate_that_was_opened_anew_counts_from_0(self) -> None:
        """The sum goes on."""
        counted = []
        for self.keeper.answer in (5, 7, 2, 2):
            counted.append(self.status().refused)
        self.assertEqual(counted, [5, 7, 9, 9])

    def test_a_gate_that_cannot_count_gives_no_number(self) -> None:
        """The status has None there."""
        self.keeper.answer = None
        self.assertIsNone(self.status().refused)

    def test_a_gate_in_trouble_leaves_the_last_number(self) -> None:
        """The status is told all the same."""
        self.keeper.answer = 5
        self.status()
        self.keeper.answer = fail(GateFailed("nft: no"))
        self.assertEqual(self.status().refused, 5)

    def test_a_gate_that_breaks_is_logged(self) -> None:
        """And the next question is asked all the same."""
        self.keeper.answer = fail(RuntimeError("bug"))
        self.status()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.keeper.answer = 5
        self.assertEqual(self.status().refused, 5)

    def test_a_slow_gate_keeps_nobody_waiting(self) -> None:
        """All who ask meanwhile wait for one answer; after 2 s the last one serves, and the late one counts later."""
        slow: Deferred[int | None] = Deferred()
        self.keeper.answer = slow
        self.clock.advance(1)
        asked = self.keeper.asked
        first = Deferred.fromCoroutine(self.monitor.status())
        self.clock.advance(1)
        second = Deferred.fromCoroutine(self.monitor.status())
        self.assertNoResult(first)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(first).refused, 0)
        self.assertNoResult(second)
        slow.callback(5)
        self.assertEqual(self.successResultOf(second).refused, 5)
        self.assertEqual(self.keeper.asked, asked + 1)

    def test_an_asker_who_leaves_takes_nothing_with_him(self) -> None:
        """The others get their answer."""
        slow: Deferred[int | None] = Deferred()
        self.keeper.answer = slow
        self.clock.advance(1)
        first = Deferred.fromCoroutine(self.monitor.status())
        second = Deferred.fromCoroutine(self.monitor.status())
        first.addErrback(lambda _: None)
        first.cancel()
        slow.callback(5)
        self.assertEqual(self.successResultOf(second).refused, 5)


class WarningTests(MonitorCase):
    """What the operator should know."""

    def warned(self, logged: Sequence[LogEvent]) -> list[str]:
        """What the log says of guesses."""
        said = [formatEvent(event) for event in logged]
        return [text for text in said if "brute force" in text]

    def test_many_wrong_syns_are_a_warning(self) -> None:
        """In the log, though nobody asks for the status, with the live tokens; in the status as long as it lasts."""
        with capturedLogs() as logged:
            self.keeper.answer = 1_000
            self.clock.pump([1.0] * 60)
            self.assertEqual(self.troubles(), [Trouble.GUESSING])
            self.keeper.answer = 2_000
            self.clock.pump([1.0] * 60)
            self.assertEqual(self.troubles(), [Trouble.GUESSING])
        said = (
            "possible brute force: 1,000 SYNs without a valid token in the last minute (further warnings suppressed); "
            "24 live tokens: 1 random SYN in 178,956,970 opens a connection; at 10,000 SYNs a second: about 5 hours"
        )
        self.assertEqual(self.warned(logged), [said])
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.troubles(), [])

    def test_guesses_that_come_and_go_are_logged_once_an_hour(self) -> None:
        """A pause of a few minutes does not fill the log; the status tells each time."""
        with capturedLogs() as logged:
            for number in range(1, 13):
                self.keeper.answer = 5_000 * number
                self.assertEqual(self.troubles(), [Trouble.GUESSING])
                self.clock.pump([60.0] * 4)
                self.assertEqual(self.troubles(), [])
            self.assertEqual(len(self.warned(logged)), 1)
            self.clock.pump([60.0] * 20)
            self.keeper.answer = 100_000
            self.assertEqual(self.troubles(), [Trouble.GUESSING])
            self.assertEqual(len(self.warned(logged)), 2)

    def test_guesses_are_told_at_once(self) -> None:
        """A status need not wait for the minute's end; it agrees with what is counted."""
        self.keeper.answer = 50_000
        status = self.status()
        (warned,) = status.warnings
        self.assertEqual(warned.text, "possible brute force: 50,000 SYNs without a valid token in the last minute")
        self.assertEqual(status.refused, 50_000)

    def test_what_comes_slowly_is_no_guessing(self) -> None:
        """A port on the Internet gets some SYNs every minute."""
        for self.keeper.answer in range(900, 9_000, 900):
            self.clock.pump([1.0] * 60)
            self.assertEqual(self.troubles(), [])

    def test_the_odds_of_many_tokens_are_reported(self) -> None:
        """The number is said, and how long it takes to hit one."""
        self.keeper.tokens = self.keeper.kernel = 7_000
        self.assertEqual(self.troubles(), [])
        self.keeper.tokens = self.keeper.kernel = 24_000
        self.clock.advance(6)
        (warned,) = self.status().warnings
        self.assertEqual(warned.trouble, Trouble.HIT_NEAR)
        self.assertIn("24,000 tokens are live, and 178,956 random SYNs hit one: about 18 seconds", warned.text)

    def test_a_gate_that_is_closed(self) -> None:
        """The reason is told, in one printable line, while it lasts."""
        self.keeper.trouble = "the disk is full\n\ud800"
        (warned,) = self.status().warnings
        self.assertEqual((warned.trouble, warned.text[-18:]), (Trouble.CLOSED, "the disk is full??"))
        self.keeper.trouble = ""
        self.assertEqual(self.troubles(), [])

    def test_lines_that_open_nothing_are_reported(self) -> None:
        """Told while there are any."""
        self.keeper.ignored = "1 line of scheme knock opens nothing: the posture is closed"
        (warned,) = self.status().warnings
        self.assertEqual((warned.trouble, warned.text), (Trouble.IGNORED, self.keeper.ignored))
        self.keeper.ignored = ""
        self.assertEqual(self.troubles(), [])

    def test_connections_that_were_given_nothing(self) -> None:
        """For an hour after the last."""
        self.counts.count("given_nothing")
        self.assertEqual(self.troubles(), [Trouble.GIVEN_NOTHING])
        self.clock.pump([60.0] * 61)
        self.assertEqual(self.troubles(), [])
        self.assertEqual(self.status().given_nothing, 1)

    def test_nothing_is_left_behind(self) -> None:
        """A monitor that is stopped waits for nothing; it may be stopped again."""
        self.monitor.stop()
        self.monitor.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
