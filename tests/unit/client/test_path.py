"""Tests of torknock.client.path: the verdict, and what a reflector says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.own_tor import free_port
from tests.support.reactor import reactor
from torknock.client import path
from torknock.client.path import PathUnknown, Seen, Sent, Verdict, ask, judge, parse_answer, reflect, write_answer

WORDS = st.integers(0, 2**32 - 1)
SEEN = st.builds(Seen, WORDS, st.none() | WORDS)


class JudgeTests(SynchronousTestCase):
    """`judge`."""

    @given(SEEN)
    def test_a_syn_that_arrives_as_it_was_sent_is_untouched(self, seen: Seen) -> None:
        """All is as it was sent."""
        verdict, sentence = judge(Sent(seen.isn, seen.tsval), seen)
        self.assertEqual(verdict, Verdict.UNTOUCHED)
        self.assertEqual("off here" in sentence, seen.tsval is None)

    @given(SEEN, SEEN)
    def test_each_rewritten_field_is_named(self, sent: Seen, seen: Seen) -> None:
        """Whatever differs is named, and nothing else."""
        verdict, sentence = judge(Sent(sent.isn, sent.tsval), seen)
        self.assertEqual(verdict, Verdict.UNTOUCHED if sent == seen else Verdict.REWRITTEN)
        if sent != seen:
            self.assertEqual("sequence numbers" in sentence, sent.isn != seen.isn)
            self.assertEqual("timestamps" in sentence, sent.tsval != seen.tsval)

    @given(SEEN, st.integers(0, 1000), st.integers(-3000, 3000))
    def test_an_unknown_isn_leaves_the_timestamp_to_compare(self, seen: Seen, late_ms: int, off: int) -> None:
        """A TSval that was read late is the same if it is not earlier, nor later than by that."""
        if seen.tsval is None:
            return
        sent = Sent(None, (seen.tsval + off) % 2**32, late_ms)
        verdict = judge(sent, seen)[0]
        self.assertEqual(verdict, Verdict.UNKNOWN if 0 <= off <= late_ms else Verdict.REWRITTEN)

    def test_timestamps_that_were_removed_are_noticed(self) -> None:
        """Both ways."""
        self.assertIn("takes them away", judge(Sent(1, 2), Seen(1, None))[1])
        self.assertEqual(judge(Sent(1, None), Seen(1, 2))[0], Verdict.REWRITTEN)


class AnswerTests(SynchronousTestCase):
    """The line that a reflector says."""

    @given(SEEN)
    def test_an_answer_is_read_as_it_was_written(self, seen: Seen) -> None:
        """What is written is read."""
        self.assertEqual(parse_answer(write_answer(seen)), seen)

    @given(st.binary() | st.from_regex(rb"torknock reflect isn=[0-9]{1,11} tsval=(none|[0-9]{1,11})\n?"))
    def test_any_octets_are_an_answer_or_one_error(self, octets: bytes) -> None:
        """They are an answer, written in the one way, or raise `PathUnknown`."""
        try:
            seen = parse_answer(octets)
        except PathUnknown:
            return
        self.assertEqual(write_answer(seen), octets)


class ReflectorTests(TestCase):
    """A reflector on loopback, and who asks it, without the capability: the ISN is the kernel's."""

    def setUp(self) -> None:
        self.patch(path, "may_administer_network", lambda: False)

    def ask(self, port: int, host: str = "127.0.0.1") -> Deferred[tuple[Sent, Seen]]:
        return Deferred.fromCoroutine(ask(reactor, host, port, 0x1234567))

    async def test_a_reflector_tells_the_syn_as_it_arrived(self) -> None:
        """Its ISN is the kernel's own, so whether that was rewritten cannot be said."""
        listening = reflect(reactor, "127.0.0.1", 0)
        self.addCleanup(lambda: maybeDeferred(listening.stopListening))
        where: Any = listening.getHost()
        sent, seen = await self.ask(where.port)
        self.assertIsNone(sent.isn)
        self.assertEqual(judge(sent, seen)[0], Verdict.UNKNOWN)
        self.assertEqual(judge(replace(sent, isn=seen.isn), seen)[0], Verdict.UNTOUCHED)

    async def test_a_port_without_a_reflector_is_unknown_with_the_reason(self) -> None:
        """Nothing that listens, or something that says something else."""
        error = await self.assertFailure(self.ask(free_port()), PathUnknown)
        self.assertIn("the connection was refused: no reflector listens there", str(error))
        for said in (b"SSH-2.0-OpenSSH\r\n", b"x" * 10_000, b""):
            factory: Any = ServerFactory.forProtocol(partial(_Says, said))
            factory.noisy = False
            listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
            where: Any = listening.getHost()
            await self.assertFailure(self.ask(where.port), PathUnknown)
            await maybeDeferred(listening.stopListening)

    async def test_a_reflector_that_does_not_answer_is_not_waited_for(self) -> None:
        """The connection is closed then."""
        self.patch(path, "TIMEOUT", 0.2)
        closed: Deferred[None] = Deferred()
        factory: Any = ServerFactory.forProtocol(partial(_Silent, closed))
        factory.noisy = False
        listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(lambda: maybeDeferred(listening.stopListening))
        where: Any = listening.getHost()
        await self.assertFailure(self.ask(where.port), PathUnknown)
        await closed


class _Silent(Protocol):
    """Says nothing, and notices when the peer hangs up."""

    def __init__(self, closed: Deferred[None]) -> None:
        self._closed = closed

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed.callback(None)


class _Says(Protocol):
    """Says something, and hangs up."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._said)
        self.transport.loseConnection()
