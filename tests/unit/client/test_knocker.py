"""Tests of torknock.client.knocker: how often, how fast and how long a bridge is knocked at."""

from __future__ import annotations

import errno
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.support.knocks import as_it_is
from torknock.channel.tls_client import HANDSHAKE_WITHIN
from torknock.client import memory_file
from torknock.client.attempts import TIMEOUT_ALONE, TIMEOUTS
from torknock.client.budget import PORTS, SENT_AT, SYNS
from torknock.client.knocker import Knocker, TokensSpent
from torknock.client.memory import Memory
from torknock.client.round_errors import BridgeSilent, NotTheBridge, WrongPeer
from torknock.client.rounds import REQUEST_WITHIN, REST, Knocked
from torknock.client.syns import TRIES
from torknock.interfaces import CannotKnock, IDialer
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import EPOCH, epoch_at, ratchet, tokens

NOW = 1_700_000_100.0
LINE = Line(secret=bytes(range(32)), pin=bytes(32))
BRIDGE = ("192.0.2.7", 443)
SILENCE = None
RST = ConnectionRefusedError()

Answers = Callable[[int], Exception | bool | None]
"""What a SYN with this ISN gets: an error, True for a SYN-ACK, None for silence."""


def isns(epoch: int, line: Line = LINE) -> tuple[int, ...]:
    """The tokens of an epoch."""
    return tokens(line.secret, line.bridge_name, epoch, line.n)


def always(answer: Exception | bool | None) -> Answers:
    """The same for every SYN."""
    return lambda isn: answer


@implementer(IDialer)
class Network:
    """A dialer whose SYNs are sent again as a kernel does, until there is an answer or nobody waits for one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers: Answers = always(RST)
        self.isns: list[int] = []
        """Of each dial."""
        self.sent: list[tuple[float, int]] = []
        """Of each SYN: when it left, and the number of its dial, which has a port of its own."""
        self.cancelled = 0
        self.waited: list[tuple[float, float]] = []
        """Of each dial that was given up: when it began, and for how long it was waited for."""
        self.round_trip = 0.0
        """Seconds from a SYN to its answer."""

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        assert (host, port) == BRIDGE
        calls: list[IDelayedCall] = []
        number = len(self.isns)
        began = self._clock.seconds()
        self.isns.append(isn)

        def end() -> None:
            for call in calls:
                if call.active():
                    call.cancel()

        def give_up(_: object) -> None:
            self.cancelled += 1
            self.waited.append((began, round(self._clock.seconds() - began, 3)))
            end()

        def syn() -> None:
            answer = self.answers(isn)
            if isinstance(answer, CannotKnock):
                end()
                return result.errback(answer)
            self.sent.append((self._clock.seconds(), number))
            if answer is None:
                return None
            if not self.round_trip:
                return arrive(answer)
            if len(calls) < len(SENT_AT):  # what is sent again is answered again, too late to matter
                calls.append(self._clock.callLater(self.round_trip, arrive, answer))
            return None

        def arrive(answer: Exception | bool) -> None:
            end()
            if isinstance(answer, Exception):
                result.errback(answer)
            else:
                result.callback(socket.socket())

        result: Deferred[socket.socket] = Deferred(give_up)
        calls += [self._clock.callLater(after, syn) for after in SENT_AT[1:]]
        syn()
        return result


class Case(SynchronousTestCase):
    """A client, its clock, and a network that the test answers for."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.date = NOW
        self.network = Network(self.clock)
        directory = Path(self.mktemp())
        directory.mkdir()
        self.directory = directory
        self.memory = Memory(directory)
        self.addCleanup(self.memory.close)
        self.knocker = Knocker(self.network, self.clock, self.now, Random(1), self.memory)  # noqa: S311

    def now(self) -> float:
        """The date, as far as this host knows."""
        return self.date + self.clock.seconds()

    def bridge(self, minutes_ahead: float = 0.0, refusal: Exception | None = RST, line: Line = LINE) -> Answers:
        """A bridge whose clock is ahead of ours; what is no token gets *refusal*, and a token opens once."""
        spent: set[int] = set()

        def answers(isn: int) -> Exception | bool | None:
            present = epoch_at(self.now() + 60 * minutes_ahead)
            if isn in spent or not any(isn in isns(present + each, line) for each in (-1, 0, 1)):
                return refusal
            spent.add(isn)
            return True

        return answers

    def knock(self, seconds: float = 60.0, line: Line = LINE, deadline: float = inf) -> Deferred[Knocked]:
        """A knock, *seconds* later."""
        result = self.knocker.knock(line, *BRIDGE, as_it_is, deadline)
        result.addCallback(self._close)
        self.clock.pump([0.0] + [0.1] * int(seconds * 10))
        return result

    def in_vain(self, seconds: float = 60.0) -> BridgeSilent:
        """The error of a knock that fails within that time."""
        error = self.failureResultOf(self.knock(seconds), BridgeSilent).value
        assert isinstance(error, BridgeSilent)
        return error

    def asked(self, seconds: int) -> float | None:
        """Tor asks again as soon as it is told, every second: when it is let in within *seconds*, None if it is not."""
        start = self.clock.seconds()
        outcomes: list[object] = [None]
        while outcomes and self.clock.seconds() < start + seconds:
            outcomes.clear()
            result = self.knock(0)
            result.addBoth(outcomes.append)
            while not outcomes and self.clock.seconds() < start + seconds:
                self.clock.pump([0.1] * 10)
            if outcomes and isinstance(outcomes[0], Knocked):
                return self.clock.seconds() - start
            for outcome in outcomes:
                assert isinstance(outcome, Failure)
                outcome.trap(BridgeSilent, TokensSpent, ConnectError)
            self.clock.pump([0.1] * 10)
        result.cancel()
        return None

    def minutes_slow(self) -> int:
        return self.knocker.minutes_slow(LINE, *BRIDGE)

    def _close(self, knocked: Knocked) -> Knocked:
        knocked.socket.close()
        return knocked


class RatchetTests(Case):
    """Lines of version 2 (protocol.md §2.2)."""

    def line_from(self, first: int) -> Line:
        """A line that begins with the epoch *first*."""
        return replace(LINE, secret=ratchet(b"l" * 32, b"d" * 32, first))

    def test_a_token_brings_its_epoch(self) -> None:
        """Of a line that is new, or two years old, or as an earlier round left it."""
        for age in (1, 730 * 288 + 100):
            line = self.line_from(epoch_at(self.now()) - age)
            self.network.answers = self.bridge(line=line)
            for _ in range(3):
                knocked = self.successResultOf(self.knock(line=line))
                self.assertIn(knocked.isn, line.tokens(knocked.epoch or 0))
                self.date += 400

    def test_a_line_that_is_younger_than_this_clock(self) -> None:
        """It tells that the clock is slow: no search is needed, by whatever it is."""
        for minutes in (7, 60, 60 * 24 * 365):
            line = self.line_from(epoch_at(self.now() + 60 * minutes) - 1)
            self.network.answers = self.bridge(minutes, line=line)
            asked = len(self.network.isns)
            self.successResultOf(self.knock(line=line))
            self.assertEqual(len(self.network.isns), asked + 1)
            self.assertEqual(self.knocker.minutes_slow(line, *BRIDGE) > 0, minutes > 10)


class RoundTests(Case):
    """One round."""

    def test_the_first_token_opens_with_one_syn(self) -> None:
        """One SYN, no pause."""
        self.network.answers = self.bridge()
        knocked = self.successResultOf(self.knock(0))
        self.assertEqual(self.network.isns, [knocked.isn])
        self.assertEqual(self.network.sent, [(0.0, 0)])

    def test_a_refusal_is_followed_by_tokens_of_the_neighbour_epochs(self) -> None:
        """Three tokens, of this epoch and its neighbours; the reason is told."""
        error = self.in_vain()
        self.assertTrue(error.refused)
        self.assertIsInstance(error.__cause__, ConnectionRefusedError)
        here = epoch_at(NOW)
        self.assertEqual(
            {tuple(isn in isns(here + offset) for offset in (0, -1, 1)) for isn in self.network.isns},
            {(True, False, False), (False, True, False), (False, False, True)},
        )
        first, second, third = (at for at, _ in self.network.sent)
        self.assertTrue(0.3 <= second - first <= 1.1)
        self.assertTrue(15 <= third - second <= 30.1)

    def test_silence_ends_the_round(self) -> None:
        """The first socket is waited for longest, and the kernel sends its SYN again; none is left open."""
        self.network.answers = always(SILENCE)
        error = self.in_vain()
        self.assertFalse(error.refused)
        self.assertEqual([sum(number == each for _, number in self.network.sent) for each in range(3)], [7, 2, 2])
        self.assertEqual(self.network.cancelled, 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_kernels_own_timeout_is_silence(self) -> None:
        """Where the kernel gives a SYN up sooner than we do."""
        self.network.answers = always(TCPTimedOutError())
        self.assertFalse(self.in_vain().refused)

    def test_a_used_token_is_survived(self) -> None:
        """The second opens, within a second after a refusal, and after silence too; the clock is not doubted."""
        for refusal, within in ((RST, 1.1), (SILENCE, TIMEOUTS[0] + 1.1)):
            self.setUp()
            bridge = self.bridge(refusal=refusal)

            def answers(
                isn: int, bridge: Answers = bridge, refusal: Exception | None = refusal
            ) -> Exception | bool | None:
                return refusal if isn == self.network.isns[0] else bridge(isn)

            self.network.answers = answers
            self.successResultOf(self.knock(within))
            self.assertEqual(len(self.network.isns), 2)
            self.assertEqual(self.minutes_slow(), 0)

    def test_no_way_to_the_bridge(self) -> None:
        """The round ends with that cause: no other token would fare better. Then the bridge is let rest."""
        self.network.answers = always(ConnectError(osError=errno.EHOSTUNREACH))
        self.assertEqual(self.failureResultOf(self.knock(), ConnectError).value.osError, errno.EHOSTUNREACH)
        self.assertEqual(len(self.network.isns), 1)

    def test_a_dial_that_sent_nothing_loses_no_token(self) -> None:
        """If this host cannot knock no token is lost, and the next knock tries at once."""
        self.network.answers = always(CannotKnock("no network", errno.ENETUNREACH))
        for _ in range(30):
            self.failureResultOf(self.knock(0), CannotKnock)
        self.network.answers = self.bridge()
        for _ in range(24):
            self.successResultOf(self.knock(0))

    def test_another_port_is_asked_for(self) -> None:
        """If another program took the source port, the same token is dialled again; not for ever."""
        self.network.answers = always(CannotKnock("taken", errno.EADDRNOTAVAIL))
        self.failureResultOf(self.knock(), CannotKnock)
        self.assertEqual(len(self.network.isns), TRIES)
        self.assertEqual(len(set(self.network.isns)), 1)

    def test_a_line_without_tokens_sends_nothing_until_the_next_epoch(self) -> None:
        """After 24 connections nothing is sent, and the next epoch brings eight more."""
        self.network.answers = self.bridge()
        for _ in range(24):
            self.successResultOf(self.knock(0))
        self.failureResultOf(self.knock(), TokensSpent)
        self.assertEqual(len(set(self.network.isns)), 24)
        self.clock.advance(EPOCH)
        for _ in range(8):
            self.successResultOf(self.knock(0))
        self.failureResultOf(self.knock(0), TokensSpent)
        self.assertEqual(len(set(self.network.isns)), 32)

    def test_two_devices_begin_elsewhere(self) -> None:
        """Each goes its own way through the tokens, the same in each epoch and after a restart."""
        self.network.answers = self.bridge()
        firsts = []
        for _ in range(12):
            directory = Path(self.mktemp())
            directory.mkdir()
            places = []
            for _ in range(2):
                memory = Memory(directory)
                self.knocker = Knocker(self.network, self.clock, self.now, Random(), memory)  # noqa: S311
                self.network.answers = self.bridge()
                isn = self.successResultOf(self.knock(0)).isn
                places.append(isns(epoch_at(self.now())).index(isn))
                memory.close()
                self.clock.advance(EPOCH)
            self.assertEqual(*places)
            firsts.append(places[0])
        self.assertGreater(len(set(firsts)), 2)

    def test_knocks_at_once_send_one_syn_at_a_time(self) -> None:
        """Each its own token, one SYN at a time: the second leaves when the first was answered."""
        self.network.answers = always(SILENCE)
        results = [self.knock(0) for _ in range(3)]
        self.assertEqual(len(self.network.isns), 1)
        self.network.answers = self.bridge()
        self.clock.pump([0.1] * 11)
        opened = [self.successResultOf(result).isn for result in results]
        self.assertEqual(self.network.isns, opened)
        self.assertEqual(len(set(opened)), 3)

    def test_knocks_that_wait_for_a_failed_round_fail_with_it(self) -> None:
        """Who waited while a round failed fails with it, and sends nothing."""
        results = [self.knock(0) for _ in range(5)]
        self.clock.pump([0.1] * 400)
        for result in results:
            self.failureResultOf(result, BridgeSilent)
        self.assertEqual(len(self.network.isns), 3)

    def test_the_silence_of_one_line_is_no_matter_of_another(self) -> None:
        """A bridge's silence towards one line is no matter of another."""
        other = Line(secret=bytes(32), pin=bytes(32))
        self.network.answers = always(SILENCE)
        self.knock(0)
        self.network.answers = self.bridge(line=other)
        self.successResultOf(self.knock(0, other))

    def test_a_cancelled_knock_closes_its_socket(self) -> None:
        """The socket is closed; the next one must wait."""
        self.network.answers = always(SILENCE)
        first = self.knock(0)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.network.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertGreater(self.in_vain(0).again_in, 0)
        self.clock.advance(REST[1])
        self.network.answers = self.bridge()
        self.successResultOf(self.knock(0))

    def test_cancelled_between_two_syns(self) -> None:
        """Nothing more is sent, and nothing waits."""
        first = self.knock(0)
        self.assertEqual(len(self.network.isns), 1)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(3)
        self.assertEqual(len(self.network.isns), 1)

    def test_cancelled_in_the_queue(self) -> None:
        """Who gives up before it is its turn sends nothing, and the one before it goes on."""
        self.network.answers = always(SILENCE)
        first, second = self.knock(0), self.knock(0)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.network.cancelled, 0)
        self.network.answers = self.bridge()
        self.clock.advance(1)
        self.successResultOf(first)
        self.clock.advance(60)
        self.assertEqual(len(self.network.isns), 1)

    def test_a_token_that_another_process_takes(self) -> None:
        """It is passed over."""
        taken: list[int] = []
        claim = self.memory.claim

        def late(line: bytes, epoch: int, isn: int) -> bool:
            if len(taken) < 2:
                taken.append(isn)
                self.assertTrue(claim(line, epoch, isn))
                return False
            return claim(line, epoch, isn)

        self.patch(self.memory, "claim", late)
        self.network.answers = self.bridge()
        self.assertNotIn(self.successResultOf(self.knock()).isn, taken)
        self.assertEqual(len(self.network.isns), 1)

    def test_errors_hold_no_secret(self) -> None:
        """Neither the key nor an address nor an ISN."""
        for answer in (RST, SILENCE, ConnectError(errno.ECONNRESET)):
            self.setUp()
            self.network.answers = always(answer)
            for _ in range(2):
                text = str(self.in_vain())
                self.assertNotIn(BRIDGE[0], text)
                self.assertNotIn("\n", text)
                self.assertFalse(any(str(isn) in text for isn in self.network.isns))


class EpochsEndTests(Case):
    """A SYN that leaves when an epoch ends."""

    def test_its_last_seconds_are_left_alone(self) -> None:
        """The SYN leaves when it is over, with a token that lasts."""
        for left in (1.9, 0.5):
            self.setUp()
            self.date = NOW + EPOCH - left
            self.network.answers = self.bridge()
            self.successResultOf(self.knock(2))
            [(at, _)] = self.network.sent
            self.assertTrue(left <= at < left + 0.15, at)
            self.assertIn(self.network.isns[0], isns(epoch_at(NOW) + 1))

    def test_nor_does_a_later_syn_of_the_round_leave_then(self) -> None:
        """Whenever the round began."""
        for left in range(2, 50, 3):
            self.setUp()
            self.date = NOW + EPOCH - left - 0.35
            self.in_vain(120)
            for at, _ in self.network.sent:
                self.assertFalse(left + 0.35 - 2 < at < left + 0.35, (left, at))

    def test_a_round_over_the_change_is_let_in_and_doubts_no_clock(self) -> None:
        """Though its first token was used, or its first two SYNs were refused by somebody on the way."""
        for left in (3, 3.5, 4, 10, 20, 31):
            for forged in (1, 2):
                self.setUp()
                self.date = NOW + EPOCH - left
                bridge = self.bridge()

                def answers(isn: int, forged: int = forged, bridge: Answers = bridge) -> Exception | bool | None:
                    return RST if len(self.network.isns) <= forged else bridge(isn)

                self.network.answers = answers
                for _ in range(3):
                    self.successResultOf(self.knock(40))
                self.assertEqual(self.minutes_slow(), 0)
                self.assertEqual(len(self.network.isns), forged + 3)


class FarTests(Case):
    """A bridge whose answers take seconds: a satellite, a mobile network under load."""

    def test_it_is_reached_by_the_first_syn(self) -> None:
        """As far as the first SYN of a round is waited for; no other leaves."""
        for seconds in (2.5, 5.2, 9.0):
            self.setUp()
            self.network.round_trip = seconds
            self.network.answers = self.bridge()
            for _ in range(3):
                self.successResultOf(self.knock(seconds + 0.2))
            self.assertEqual(len(self.network.isns), 3)

    def test_once_it_was_reached_it_is_waited_for(self) -> None:
        """Beyond that a round without a search finds it; the next one knows."""
        self.date = NOW + 100
        self.network.round_trip = 13.0
        self.network.answers = self.bridge()
        self.assertIsNotNone(self.asked(400))
        asked = len(self.network.isns)
        for _ in range(3):
            self.successResultOf(self.knock(13.2))
        self.assertEqual(len(self.network.isns), asked + 3)

    def test_a_refusal_is_followed_by_the_next_token(self) -> None:
        """The second SYN is waited for as long as the bound allows; where that is too short, the next round's is."""
        for seconds, within in ((4.5, 12), (5.2, 140)):
            self.setUp()
            self.network.round_trip = seconds
            bridge = self.bridge()

            def answers(isn: int, bridge: Answers = bridge) -> Exception | bool | None:
                return RST if isn == self.network.isns[0] else bridge(isn)

            self.network.answers = answers
            self.assertIsNotNone(self.asked(within))
            self.assertEqual(self.minutes_slow(), 0)

    def test_its_silence_is_one_socket(self) -> None:
        """No search follows, and the bound holds."""
        self.network.round_trip = 5.2
        self.network.answers = self.bridge()
        self.successResultOf(self.knock(6))
        self.network.answers = always(SILENCE)
        self.network.sent.clear()
        self.asked(115)
        self.assertEqual(len(self.network.sent), SYNS)
        self.assertEqual(len({number for _, number in self.network.sent}), 1)


class DeadlineTests(Case):
    """A request is given up at some time: what is sent for it comes to an end before."""

    def ends(self) -> list[float]:
        """Of each dial: when its socket was closed."""
        return [at + spent for at, spent in self.network.waited]

    def test_every_syn_and_the_channel_have_their_time_before_socks_gives_up(self) -> None:
        """Every SYN of every round has its time, and then the channel has all of its own, before SOCKS gives up."""
        for seed in range(60):
            self.setUp()
            self.knocker = Knocker(self.network, self.clock, self.now, Random(seed), self.memory)  # noqa: S311
            self.network.answers = always(SILENCE)
            for dials in (3, 3, 1):
                self.network.waited.clear()
                started, before = self.clock.seconds(), len(self.network.isns)
                silent = self.knock(REQUEST_WITHIN, deadline=started + REQUEST_WITHIN)
                self.failureResultOf(silent, BridgeSilent)
                self.assertEqual(len(self.network.isns) - before, dials)
                self.assertLessEqual(max(self.ends()), started + REQUEST_WITHIN - HANDSHAKE_WITHIN + 0.2)
                self.clock.advance(60)

    def test_a_syn_is_waited_for_as_long_as_its_request_has_time(self) -> None:
        """Then the round ends at once: no SYN leaves whose channel could not open in time."""
        self.network.answers = always(SILENCE)
        silent = self.knock(6, deadline=HANDSHAKE_WITHIN + 5)
        self.assertIn("none of 1 connection attempts", str(self.failureResultOf(silent, BridgeSilent).value))
        self.assertEqual([round(end) for end in self.ends()], [5])

    def test_a_request_that_has_no_time_left_sends_nothing(self) -> None:
        """No token is lost, and the next request knocks at once."""
        self.network.answers = self.bridge()
        for left in (0.0, HANDSHAKE_WITHIN, HANDSHAKE_WITHIN + 1):
            late = self.knock(0, deadline=self.clock.seconds() + left)
            self.assertIn("waited too long", str(self.failureResultOf(late, CannotKnock).value))
        self.assertEqual(self.network.isns, [])
        for _ in range(24):
            self.successResultOf(self.knock(0))

    def test_a_request_that_waited_for_another_has_the_rest_of_its_time(self) -> None:
        """The first one's second SYN is answered, after 11 s: too late for the second request, which sends nothing."""
        self.network.answers = always(SILENCE)
        first = self.knock(0)
        second = self.knock(9, deadline=HANDSHAKE_WITHIN + 12)
        self.network.answers = self.bridge()
        self.clock.pump([0.1] * 31)
        self.successResultOf(first)
        self.assertIn("waited too long", str(self.failureResultOf(second, CannotKnock).value))
        self.assertEqual(len(self.network.isns), 2)


class HungUpTests(Case):
    """A bridge that lets the client in and hangs up: its tor hibernates."""

    def test_a_failed_round_is_followed_by_a_backoff(self) -> None:
        """As one that is silent: its tokens are not used up, and what happens is said."""
        self.network.answers = self.bridge()

        async def opened(knocked: Knocked) -> Knocked:
            knocked.socket.close()
            self.clock.callLater(0.1, knocked.hung_up)
            return knocked

        let_in, errors = 0, []
        for _ in range(EPOCH):
            result = self.knocker.knock(LINE, *BRIDGE, opened)
            self.clock.pump([0.5] * 2)
            result.addErrback(lambda failure: errors.append(failure.value))
            let_in += result.result is not None
        self.assertTrue(5 <= let_in <= 8, let_in)
        self.assertEqual(len(self.network.isns), let_in)
        self.assertIn("hung up", str(errors[0]))
        self.assertIsInstance(errors[0], BridgeSilent)

    def test_one_that_comes_back_is_found(self) -> None:
        """Within a minute; then it is as ever."""
        self.network.answers = self.bridge()
        self.successResultOf(self.knock(0)).hung_up()
        seconds = self.asked(60)
        assert seconds is not None
        self.assertTrue(REST[0] - 1 <= seconds <= REST[1] + 1)
        self.successResultOf(self.knock(0))


class WrongPeerTests(Case):
    """Something else than the bridge answers: a decoy, since the token was used, or a man in the middle."""

    def knock_past(self, strangers: set[int], seconds: float = 60.0) -> Deferred[Knocked]:
        """A knock at a port where the dials of these numbers are answered by something else."""

        async def opened(knocked: Knocked) -> Knocked:
            knocked.socket.close()
            if self.network.isns.index(knocked.isn) in strangers:
                raise WrongPeer("it speaks HTTP")
            return knocked

        self.network.answers = always(True)
        result = self.knocker.knock(LINE, *BRIDGE, opened)
        self.clock.pump([0.0] + [0.1] * int(seconds * 10))
        return result

    def test_the_next_token_is_tried_within_the_round(self) -> None:
        """As after a RST."""
        self.successResultOf(self.knock_past({0}, 1.2))
        self.assertEqual(len(self.network.isns), 2)
        self.assertEqual(self.minutes_slow(), 0)

    def test_both_possibilities_are_said(self) -> None:
        """With what was seen; and the number of SYNs is bounded as ever."""
        error = self.failureResultOf(self.knock_past({0, 1, 2}), NotTheBridge).value
        assert isinstance(error, NotTheBridge)
        self.assertTrue(error.refused)
        for words in ("it speaks HTTP", "used by another device", "intercepted"):
            self.assertIn(words, str(error))
        self.failureResultOf(self.knock_past({0, 1, 2}), NotTheBridge, BridgeSilent)
        self.assertEqual(len(self.network.isns), 3)

    def test_a_reset_right_behind_the_syn_ack(self) -> None:
        """However early it is noticed."""
        for error in (ConnectError(errno.ECONNRESET), ConnectError(errno.EPIPE)):
            self.setUp()
            self.network.answers = always(error)
            self.assertIn("reset", str(self.failureResultOf(self.knock(), NotTheBridge).value))
            self.assertEqual(len(self.network.isns), 3)

    def test_it_does_not_set_the_clock(self) -> None:
        """What lets the SYN of a search through and is not the bridge has not moved it to another epoch."""
        strangers = set(range(6))
        self.failureResultOf(self.knock_past(strangers), NotTheBridge)
        self.clock.advance(100)
        self.failureResultOf(self.knock_past(strangers), NotTheBridge)
        self.assertEqual(len(self.network.isns), 6)
        self.clock.advance(100)
        self.network.answers = self.bridge()
        self.successResultOf(self.knock(0))
        self.assertEqual(self.minutes_slow(), 0)


class ClockTests(Case):
    """A wrong clock on this host."""

    def found(self, minutes_ahead: float, refusal: Exception | None = RST) -> float:
        """Seconds after which a bridge with another clock lets the client in; tor asks every second."""
        self.setUp()
        self.network.answers = self.bridge(minutes_ahead, refusal)
        seconds = self.asked(900)
        assert seconds is not None
        return seconds

    def test_a_clock_that_is_wrong_by_20_minutes_is_found(self) -> None:
        """Up to 20 minutes, whether wrong tokens are refused or not: in the first two rounds."""
        for minutes in (-20, -12, -7, -4, 4, 7, 12, 20):
            for refusal in (RST, SILENCE):
                self.assertLess(self.found(minutes, refusal), 180, (minutes, refusal))
                self.assertLessEqual(len(self.network.isns), 6)

    def test_a_wrong_clock_is_logged_once(self) -> None:
        """The offset that worked is used from then on, through the epochs, without another search."""
        for minutes, way in ((15, "slow"), (-15, "fast")):
            with capturedLogs() as logs:
                self.found(minutes)
            [event] = [event for event in logs if "minutes" in event]
            self.assertEqual((event["way"], 10 <= event["minutes"] <= 20), (way, True))
            self.assertTrue(10 <= abs(self.minutes_slow()) <= 20)
            self.network.isns.clear()
            with capturedLogs() as logs:
                for _ in range(3):
                    self.clock.advance(EPOCH)
                    self.successResultOf(self.knock(0))
            self.assertEqual(len(self.network.isns), 3)
            self.assertEqual(logs, [])

    def test_a_neighbours_tokens_prove_no_clock(self) -> None:
        """A bridge two epochs away takes them; so does any, if this epoch's were used. A third epoch's tell which."""
        for minutes in (10, -10):
            self.setUp()
            self.network.answers = self.bridge(minutes)
            with capturedLogs() as logs:
                for _ in range(2):
                    self.successResultOf(self.knock())
                    self.assertEqual(self.minutes_slow(), 0)
                self.assertEqual([event for event in logs if "minutes" in event], [])
                asked = len(self.network.isns)
                for _ in range(3):
                    self.successResultOf(self.knock(0))
            self.assertEqual(len(self.network.isns), asked + 3)
            self.assertEqual(
                [event["way"] for event in logs if "minutes" in event], ["slow" if minutes > 0 else "fast"]
            )
            self.assertTrue(7 <= abs(self.minutes_slow()) <= 13)

    def test_tokens_that_another_device_has_used_up(self) -> None:
        """Those of the present epoch, or a neighbour's too. No clock is doubted; when they are over, all is well."""
        for theirs in ((0,), (0, -1), (0, 1)):
            self.setUp()
            self.date = NOW + 100
            bridge = self.bridge()

            def answers(
                isn: int, theirs: tuple[int, ...] = theirs, bridge: Answers = bridge
            ) -> Exception | bool | None:
                here = epoch_at(self.now())
                return RST if any(isn in isns(here + offset) for offset in theirs) else bridge(isn)

            self.network.answers = answers
            with capturedLogs() as logs:
                for _ in range(4):
                    self.successResultOf(self.knock(60))
                    self.assertEqual(self.minutes_slow(), 0)
            self.assertEqual([event for event in logs if "minutes" in event], [])
            told = [event["log_format"] for event in logs if "another device" in event["log_format"]]
            self.assertEqual(len(told), 1)
            self.clock.advance(EPOCH)
            self.network.answers = self.bridge()
            before = len(self.network.isns)
            for _ in range(3):
                self.successResultOf(self.knock(0))
            self.assertEqual(len(self.network.isns), before + 3)

    def test_forged_resets_do_not_set_the_clock(self) -> None:
        """However many SYNs get a forged RST: the bridge is found soon after, and the clock is right."""
        for forged in range(12):
            self.setUp()
            bridge = self.bridge()

            def answers(isn: int, forged: int = forged, bridge: Answers = bridge) -> Exception | bool | None:
                return RST if len(self.network.isns) <= forged else bridge(isn)

            self.network.answers = answers
            with capturedLogs() as logs:
                self.assertIsNotNone(self.asked(900))
            self.assertEqual([event for event in logs if "minutes" in event], [])
            self.assertLessEqual(len(self.network.isns), forged + 3)
            self.successResultOf(self.knock(2))
            self.assertEqual(self.minutes_slow(), 0)

    def test_a_clock_that_is_set_is_right(self) -> None:
        """Who does what the notice says is let in at once."""
        self.found(20)
        self.network.isns.clear()
        self.date += 20 * 60
        self.network.answers = self.bridge()
        self.successResultOf(self.knock(0))
        self.assertEqual(self.minutes_slow(), 0)
        self.assertEqual(len(self.network.isns), 1)

    def test_refused_with_an_offset_its_own_clock_is_tried(self) -> None:
        """It may have been set in a way that was not noticed; then the offset is forgotten."""
        self.found(20)
        self.network.answers = self.bridge()
        self.network.isns.clear()
        self.successResultOf(self.knock())
        self.assertEqual(len(self.network.isns), 2)
        self.assertEqual(self.minutes_slow(), 0)

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.integers(-8, 8), st.sampled_from([-5, -1, 0, 3, 9]), st.floats(0, 400)), max_size=12))
    def test_no_token_twice_however_the_date_jumps(self, steps: list[tuple[int, int, float]]) -> None:
        """Nor when the process starts anew after each jump: (epochs to jump, the bridge's place, seconds to wait)."""
        self.network.isns.clear()
        started, directory = self.clock.seconds(), Path(self.mktemp())
        directory.mkdir()
        for jump, place, seconds in steps:
            self.date = NOW - started + jump * EPOCH
            memory = Memory(directory)
            self.knocker = Knocker(self.network, self.clock, self.now, Random(1), memory)  # noqa: S311
            self.network.answers = self.bridge(5 * place)
            for _ in range(3):
                knock = self.knock(40)
                knock.addErrback(lambda failure: failure.trap(BridgeSilent, TokensSpent, CancelledError))
                knock.cancel()  # a process that ends leaves no knock behind
            memory.close()
            self.clock.advance(seconds)
        self.assertEqual(len(set(self.network.isns)), len(self.network.isns))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DownTests(Case):
    """A bridge that does not let the client in, and a tor that asks again every second."""

    def assert_bounded(self) -> None:
        """In no two minutes more than 11 SYNs or 3 ports."""
        for start, _ in self.network.sent:
            within = [(at, number) for at, number in self.network.sent if start <= at < start + 120]
            self.assertLessEqual(len(within), SYNS, within)
            self.assertLessEqual(len({number for _, number in within}), PORTS, within)

    def test_eleven_syns_in_two_minutes(self) -> None:
        """From 3 ports, with what the kernel sends again, in every two minutes of a quarter of an hour."""
        unreachable = ConnectError(osError=errno.EHOSTUNREACH)
        for answer in (RST, SILENCE, TCPTimedOutError(), unreachable, ConnectError(errno.ECONNRESET)):
            self.setUp()
            self.network.answers = always(answer)
            self.asked(900)
            self.assert_bounded()
            self.assertEqual(len(set(self.network.isns)), len(self.network.isns))

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.sampled_from([RST, SILENCE, ConnectError(errno.ECONNRESET)]), min_size=40, max_size=40))
    def test_bounded_whatever_it_answers(self, answers: list[Exception | None]) -> None:
        """The answers change from dial to dial."""
        self.setUp()
        self.network.answers = lambda isn: answers[min(self.network.isns.index(isn), len(answers) - 1)]
        self.asked(600)
        self.assert_bounded()

    def test_bounded_when_tor_gives_up_and_asks_again(self) -> None:
        """Every second."""
        self.network.answers = always(SILENCE)
        for _ in range(400):
            result = self.knock(1)
            result.addErrback(lambda failure: failure.trap(BridgeSilent, CancelledError))
            result.cancel()
        self.assert_bounded()

    def test_a_bridge_that_returns_is_found(self) -> None:
        """Within two minutes and a half, however long it was away, and whatever was there meanwhile."""
        for answer in (RST, SILENCE):
            for away in (3, 10, 60, 130, 200, 400, 700, 1000):
                self.setUp()
                self.network.answers = always(answer)
                self.asked(away)
                self.network.answers = self.bridge()
                seconds = self.asked(200)
                assert seconds is not None, (answer, away)
                self.assertLess(seconds, 150, (answer, away))

    def test_tokens_are_left_for_its_return(self) -> None:
        """An epoch brings more than a bridge takes that is down."""
        for answer in (RST, SILENCE):
            self.setUp()
            self.network.answers = always(answer)
            self.asked(1800)
            valid = {isn for offset in (-1, 0, 1) for isn in isns(epoch_at(self.now()) + offset)}
            self.assertGreaterEqual(len(valid - set(self.network.isns)), 8)

    def test_silence_is_one_socket_in_the_end(self) -> None:
        """The kernel repeats its SYN, as it does for any program that connects."""
        self.network.answers = always(SILENCE)
        self.asked(500)
        last = self.network.sent[-1][1]
        for number in range(6, last):
            self.assertEqual(sum(each == number for _, each in self.network.sent), SYNS)
        self.assertGreater(last, 5)
        self.assertLess(TIMEOUT_ALONE, 131)  # when the kernel gives up

    def test_an_answer_ends_the_rest(self) -> None:
        """A bridge that lets the client in is knocked at whenever tor asks."""
        self.in_vain(40)
        self.clock.advance(130)
        self.network.answers = self.bridge()
        for _ in range(4):
            self.successResultOf(self.knock(0))

    def test_an_error_during_the_backoff_says_how_long_it_lasts(self) -> None:
        """With the seconds until the next attempt, and what the last one got."""
        self.in_vain(40)
        error = self.in_vain(0)
        self.assertIn(f"next attempt in {error.again_in:.0f} s (it refused)", str(error))


class HeldTests(Case):
    """Another program holds the file of used tokens."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(memory_file, "_TIMEOUT", 0.001)  # the reactor waits with us, at each of many tries

    def hold(self, begin: str) -> sqlite3.Connection:
        holder = sqlite3.connect(self.directory / "knocks.sqlite", isolation_level=None)
        self.addCleanup(holder.close)
        holder.execute(begin)
        return holder

    def test_a_knock_waits_until_it_lets_go(self) -> None:
        """The token is written down before anything is sent; that the knock waits is said once."""
        self.network.answers = self.bridge()
        for begin in ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
            holder, sent = self.hold(begin), len(self.network.isns)
            with capturedLogs() as logs:
                knocking = self.knock(5)
                self.assertNoResult(knocking)
                self.assertEqual(len(self.network.isns), sent)
                holder.execute("ROLLBACK")
                self.clock.pump([0.1] * 20)
                self.successResultOf(knocking)
            self.assertEqual(len([log for log in logs if "waits" in log["log_format"]]), 1)

    def test_a_knock_that_waited_in_vain_sends_nothing(self) -> None:
        """It says why; the next one gets in once the file is free."""
        self.network.answers = self.bridge()
        holder = self.hold("BEGIN IMMEDIATE")
        error = self.failureResultOf(self.knock(12), CannotKnock).value
        self.assertIn("held by another program", str(error))
        self.assertEqual(self.network.isns, [])
        holder.execute("ROLLBACK")
        self.successResultOf(self.knock(1))
