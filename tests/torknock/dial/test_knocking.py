"""Tests of torknock.dial.knocking: how often, how fast and how long a bridge is knocked at."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from torknock.dial.attempts import PATIENCE, SEARCHED
from torknock.dial.interfaces import CannotKnock, IDialer
from torknock.dial.knocking import REST, SEARCH_AGAIN_AFTER, BridgeSilent, Knocked, Knocker, TokensSpent
from torknock.dial.memory import Memory
from torknock.isn.token import EPOCH, epoch_at, tokens
from torknock.line import Line

NOW = 1_700_000_100.0
LINE = Line(secret=bytes(range(32)), pin=bytes(32))
BRIDGE = ("192.0.2.7", 443)


@implementer(IDialer)
class Dialled:
    """A dialer whose calls wait for the test to answer them, unless `answer` does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.isns: list[int] = []
        self.at: list[float] = []
        self.waiting: list[Deferred[socket.socket]] = []
        self.cancelled = 0
        self.error: Exception | None = None
        self.opens: set[int] | None = None
        """If given, the ISNs that are answered at once; all others are refused."""

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        assert (host, port) == BRIDGE
        self.isns.append(isn)
        self.at.append(self._clock.seconds())
        result: Deferred[socket.socket] = Deferred(self._cancel)
        if self.error is not None:
            result.errback(self.error)
        elif self.opens is None:
            self.waiting.append(result)
        elif isn in self.opens:
            result.callback(socket.socket())
        else:
            result.errback(ConnectionRefusedError())
        return result

    def _cancel(self, result: Deferred[socket.socket]) -> None:
        self.cancelled += 1
        self.waiting.remove(result)


class KnockerTests(SynchronousTestCase):
    """`Knocker`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.date = NOW
        self.dialled = Dialled(self.clock)
        directory = Path(self.mktemp())
        directory.mkdir()
        self.memory = Memory(directory)
        self.addCleanup(self.memory.close)
        self.knocker = Knocker(self.dialled, self.clock, self.now, Random(1), self.memory)  # noqa: S311

    def now(self) -> float:
        """The date, as far as this host knows."""
        return self.date + self.clock.seconds()

    def open_in(self, epochs_away: int, line: Line = LINE) -> None:
        """Let the bridge take the tokens of three epochs around that which is *epochs_away* from ours."""
        present = epoch_at(self.now()) + epochs_away
        self.dialled.opens = {
            isn
            for epoch in range(present - 1, present + 2)
            for isn in tokens(line.secret, line.bridge_name, epoch, line.n)
        }

    def knock(self, seconds: float = 60.0, line: Line = LINE) -> Deferred[Knocked]:
        """A knock, *seconds* later."""
        result = self.knocker.knock(line, *BRIDGE)
        result.addCallback(self._close)
        self.clock.pump([0.0] + [0.1] * int(seconds * 10))
        return result

    def minutes_slow(self) -> int:
        return self.knocker.minutes_slow(LINE, *BRIDGE)

    def _close(self, knocked: Knocked) -> Knocked:
        knocked.socket.close()
        return knocked

    def test_first_token_opens(self) -> None:
        """One SYN, no pause."""
        self.open_in(0)
        knocked = self.successResultOf(self.knock(0))
        self.assertEqual(self.dialled.isns, [knocked.isn])
        self.assertEqual(self.dialled.at, [0.0])

    def test_refused(self) -> None:
        """Three tokens of this epoch, then a search of eight SYNs within a few seconds, and the reason is told."""
        self.dialled.opens = set()
        error = self.failureResultOf(self.knock(), BridgeSilent).value
        self.assertTrue(error.refused)
        self.assertIsInstance(error.__cause__, ConnectionRefusedError)
        self.assertEqual(len(set(self.dialled.isns)), 3 + 2 * SEARCHED)
        here = tokens(LINE.secret, LINE.bridge_name, epoch_at(NOW), LINE.n)
        self.assertEqual([isn in here for isn in self.dialled.isns], [True] * 3 + [False] * 2 * SEARCHED)
        pauses = [after - before for before, after in zip(self.dialled.at, self.dialled.at[1:], strict=False)]
        self.assertTrue(all(0.3 <= pause <= 1.1 for pause in pauses), pauses)

    def test_silence(self) -> None:
        """Five seconds for each token, less in the search, no socket left open."""
        error = self.failureResultOf(self.knock(33), BridgeSilent).value
        self.assertFalse(error.refused)
        self.assertEqual(self.dialled.cancelled, 3 + 2 * SEARCHED)
        self.assertGreaterEqual(self.dialled.at[1] - self.dialled.at[0], PATIENCE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_kernels_own_timeout_is_silence(self) -> None:
        """Where the kernel gives a SYN up sooner than we do."""
        self.dialled.error = TCPTimedOutError()
        self.assertFalse(self.failureResultOf(self.knock(), BridgeSilent).value.refused)

    def test_rest(self) -> None:
        """Tor asks again every second: nothing is sent for longer and longer, and then one SYN at a time."""
        self.dialled.opens = set()
        self.knock().addErrback(lambda failure: failure.trap(BridgeSilent))
        del self.dialled.at[:], self.dialled.isns[:]
        answers = [self.knock(1) for _ in range(250)]
        for answer in answers:
            self.failureResultOf(answer, BridgeSilent, TokensSpent)
        rests = [after - before for before, after in zip(self.dialled.at, self.dialled.at[1:], strict=False)]
        for rest, least in zip(rests, REST[2:], strict=False):
            self.assertTrue(0.8 * least <= rest <= 1.2 * least + 1.5, rests)
        self.assertLessEqual(len(self.dialled.isns), 8)

    def test_a_bridge_that_returns_is_let_rest_no_longer(self) -> None:
        """An answer ends the rest."""
        self.dialled.opens = set()
        self.knock().addErrback(lambda failure: failure.trap(BridgeSilent))
        self.open_in(0)
        for _ in range(3):
            self.successResultOf(self.knock(0))
        self.assertEqual(len(self.dialled.isns), 3 + 2 * SEARCHED + 3)

    def test_tokens_are_spent(self) -> None:
        """After 24 connections nothing is sent, and the next epoch brings eight more."""
        self.open_in(0)
        for _ in range(24):
            self.successResultOf(self.knock(0))
        self.failureResultOf(self.knock(), TokensSpent)
        self.assertEqual(len(set(self.dialled.isns)), 24)
        self.clock.advance(EPOCH)
        self.open_in(0)
        for _ in range(8):
            self.successResultOf(self.knock(0))
        self.failureResultOf(self.knock(0), TokensSpent)
        self.assertEqual(len(set(self.dialled.isns)), 32)

    def test_a_slow_clock_is_found_and_said_once(self) -> None:
        """The offset that worked is used from then on, through the epochs, without another search."""
        self.open_in(3)
        with capturedLogs() as logs:
            self.successResultOf(self.knock())
        [event] = [event for event in logs if "minutes" in event]
        self.assertEqual(event["way"], "slow")
        self.assertTrue(12 <= event["minutes"] <= 18)
        self.assertTrue(12 <= self.minutes_slow() <= 18)
        del self.dialled.isns[:]
        with capturedLogs() as logs:
            for _ in range(3):
                self.clock.advance(EPOCH)
                self.open_in(3)
                self.successResultOf(self.knock(0))
        self.assertEqual(len(self.dialled.isns), 3)
        self.assertEqual(logs, [])

    def test_a_fast_clock_is_found(self) -> None:
        """The other way round."""
        self.open_in(-5)
        with capturedLogs() as logs:
            self.successResultOf(self.knock())
        [event] = [event for event in logs if "minutes" in event]
        self.assertEqual((event["way"], 22 <= event["minutes"] <= 28), ("fast", True))
        self.assertTrue(22 <= -self.minutes_slow() <= 28)

    def test_a_clock_that_is_set_is_right(self) -> None:
        """Who does what the notice says is let in at once."""
        self.open_in(4)
        self.successResultOf(self.knock())
        del self.dialled.isns[:]
        self.date += 4 * EPOCH
        self.open_in(0)
        self.successResultOf(self.knock(0))
        self.assertEqual(self.minutes_slow(), 0)
        self.assertEqual(len(self.dialled.isns), 1)

    def test_a_search_is_not_made_again_for_ten_minutes(self) -> None:
        """In 20 minutes of a bridge that is down there are two, however often tor asks."""
        self.dialled.opens = set()
        bursts = 0
        for _ in range(int(2 * SEARCH_AGAIN_AFTER / 10) - 1):
            before = len(self.dialled.isns)
            self.knock(10).addErrback(lambda failure: failure.trap(BridgeSilent, TokensSpent))
            bursts += len(self.dialled.isns) - before > 3
        self.assertEqual(bursts, 2)

    def test_no_way_to_the_bridge(self) -> None:
        """The round ends with that cause: no other token would fare better. Then the bridge is let rest."""
        self.dialled.error = ConnectError(osError=errno.EHOSTUNREACH)
        self.assertEqual(self.failureResultOf(self.knock(), ConnectError).value.osError, errno.EHOSTUNREACH)
        self.assertEqual(len(self.dialled.isns), 1)

    def test_nothing_was_sent(self) -> None:
        """If this host cannot knock no token is lost, and the next knock tries at once."""
        self.dialled.error = CannotKnock("no network", errno.ENETUNREACH)
        for _ in range(30):
            self.failureResultOf(self.knock(0), CannotKnock)
        self.dialled.error = None
        self.open_in(0)
        for _ in range(24):
            self.successResultOf(self.knock(0))

    def test_another_port_is_asked_for(self) -> None:
        """If somebody was quicker to take the source port, the same token is dialled again; not for ever."""
        self.dialled.error = CannotKnock("taken", errno.EADDRNOTAVAIL)
        self.failureResultOf(self.knock(), CannotKnock)
        self.assertEqual(len(self.dialled.isns), 3)
        self.assertEqual(len(set(self.dialled.isns)), 1)

    def test_knocks_at_once(self) -> None:
        """Each its own token, one SYN at a time: the second leaves when the first was answered."""
        results = [self.knock(0) for _ in range(3)]
        for _ in results:
            [waiting] = self.dialled.waiting
            self.dialled.waiting.clear()
            waiting.callback(socket.socket())
            self.clock.advance(0)
        opened = [self.successResultOf(result).isn for result in results]
        self.assertEqual(self.dialled.isns, opened)
        self.assertEqual(len(set(opened)), 3)

    def test_knocks_at_once_in_vain(self) -> None:
        """Who waited while a round failed fails with it, and sends nothing."""
        self.dialled.opens = set()
        results = [self.knock(0) for _ in range(5)]
        self.clock.pump([0.1] * 200)
        for result in results:
            self.failureResultOf(result, BridgeSilent)
        self.assertEqual(len(self.dialled.isns), 3 + 2 * SEARCHED)

    def test_two_lines(self) -> None:
        """A bridge's silence towards one line is no matter of another."""
        other = Line(secret=bytes(32), pin=bytes(32))
        self.knock(0)
        self.open_in(0, other)
        self.successResultOf(self.knock(0, other))

    def test_cancelled(self) -> None:
        """The socket is closed, the next in the line goes on; who asks again at once must wait."""
        first = self.knock(0)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.dialled.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.failureResultOf(self.knock(0), BridgeSilent)
        self.clock.advance(10)
        self.open_in(0)
        self.successResultOf(self.knock(0))

    def test_cancelled_between_two_syns(self) -> None:
        """Nothing more is sent, and nothing waits."""
        self.dialled.opens = set()
        first = self.knock(0)
        self.assertEqual(len(self.dialled.isns), 1)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(3)
        self.assertEqual(len(self.dialled.isns), 1)

    def test_cancelled_in_the_queue(self) -> None:
        """Who gives up before it is his turn sends nothing, and the one before him goes on."""
        first, second = self.knock(0), self.knock(0)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.dialled.cancelled, 0)
        [waiting] = self.dialled.waiting
        waiting.callback(socket.socket())
        self.successResultOf(first)
        self.clock.advance(60)
        self.assertEqual(len(self.dialled.isns), 1)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.integers(-8, 8), st.sampled_from([-5, -1, 0, 3, 9]), st.floats(0, 400)), max_size=12))
    def test_no_token_twice_however_the_date_jumps(self, steps: list[tuple[int, int, float]]) -> None:
        """Nor when the process starts anew after each jump: (epochs to jump, the bridge's place, seconds to wait)."""
        self.dialled.isns.clear()
        started, directory = self.clock.seconds(), Path(self.mktemp())
        directory.mkdir()
        for jump, place, seconds in steps:
            self.date = NOW - started + jump * EPOCH
            memory = Memory(directory)
            self.knocker = Knocker(self.dialled, self.clock, self.now, Random(1), memory)  # noqa: S311
            for _ in range(3):
                self.open_in(place)
                self.knock(16).addErrback(lambda failure: failure.trap(BridgeSilent, TokensSpent))
            memory.close()
            self.clock.advance(seconds)
        self.assertEqual(len(set(self.dialled.isns)), len(self.dialled.isns))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_token_that_another_process_takes(self) -> None:
        """It is passed over."""
        for isn in tokens(LINE.secret, LINE.bridge_name, epoch_at(NOW), LINE.n):
            self.memory.claim(b"another line", epoch_at(NOW), isn)
        taken: list[int] = []
        claim = self.memory.claim

        def late(line: bytes, epoch: int, isn: int) -> bool:
            if len(taken) < 2:
                taken.append(isn)
                return False
            return claim(line, epoch, isn)

        self.patch(self.memory, "claim", late)
        self.open_in(0)
        self.assertNotIn(self.successResultOf(self.knock()).isn, taken)
        self.assertEqual(len(self.dialled.isns), 1)

    def test_a_stranger_answers(self) -> None:
        """What was not the bridge is let rest as a silent one is, longer each time, until a bridge answers."""
        self.open_in(0)
        for _ in range(60):
            self.knock(1).addCallbacks(
                lambda _: self.knocker.disappointed(LINE, *BRIDGE), lambda failure: failure.trap(BridgeSilent)
            )
        self.assertLessEqual(len(self.dialled.isns), 5)
        error = self.failureResultOf(self.knock(0), BridgeSilent).value
        self.assertIn("not the bridge", str(error))

    def test_a_stranger_does_not_set_the_clock(self) -> None:
        """Who lets one SYN of a search through and is not the bridge has not moved it to another epoch."""
        self.open_in(4)
        self.successResultOf(self.knock())
        self.knocker.disappointed(LINE, *BRIDGE)
        self.clock.advance(10)
        del self.dialled.isns[:]
        self.open_in(0)
        self.successResultOf(self.knock(0))
        self.assertEqual(len(self.dialled.isns), 1)

    def test_errors_hold_no_secret(self) -> None:
        """Neither the key nor an address nor an ISN."""
        self.dialled.opens = set()
        for _ in range(2):
            text = str(self.failureResultOf(self.knock(), BridgeSilent).value)
            self.assertNotIn(BRIDGE[0], text)
            self.assertNotIn("\n", text)
            self.assertFalse(any(str(isn) in text for isn in self.dialled.isns))
            self.dialled.isns.clear()
