"""Tests of torknock.client.path: the verdict, and what a reflector says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.client.path import PathUnknown, Seen, Sent, Verdict, judge, parse_answer, write_answer

WORDS = st.integers(0, 2**32 - 1)
SEEN = st.builds(Seen, WORDS, st.none() | WORDS)


class JudgeTests(SynchronousTestCase):
    """`judge`."""

    @given(SEEN)
    def test_untouched(self, seen: Seen) -> None:
        """All is as it was sent."""
        verdict, sentence = judge(Sent(seen.isn, seen.tsval), seen)
        self.assertEqual(verdict, Verdict.UNTOUCHED)
        self.assertEqual("off here" in sentence, seen.tsval is None)

    @given(SEEN, SEEN)
    def test_rewritten(self, sent: Seen, seen: Seen) -> None:
        """Whatever differs is named, and nothing else."""
        verdict, sentence = judge(Sent(sent.isn, sent.tsval), seen)
        self.assertEqual(verdict, Verdict.UNTOUCHED if sent == seen else Verdict.REWRITTEN)
        if sent != seen:
            self.assertEqual("sequence numbers" in sentence, sent.isn != seen.isn)
            self.assertEqual("timestamps" in sentence, sent.tsval != seen.tsval)

    @given(SEEN, st.integers(0, 1000), st.integers(-3000, 3000))
    def test_without_the_isn(self, seen: Seen, late_ms: int, off: int) -> None:
        """A TSval that was read late is the same if it is not earlier, nor later than by that."""
        if seen.tsval is None:
            return
        sent = Sent(None, (seen.tsval + off) % 2**32, late_ms)
        verdict = judge(sent, seen)[0]
        self.assertEqual(verdict, Verdict.UNKNOWN if 0 <= off <= late_ms else Verdict.REWRITTEN)

    def test_taken_away(self) -> None:
        """Both ways."""
        self.assertIn("takes them away", judge(Sent(1, 2), Seen(1, None))[1])
        self.assertEqual(judge(Sent(1, None), Seen(1, 2))[0], Verdict.REWRITTEN)


class AnswerTests(SynchronousTestCase):
    """The line that a reflector says."""

    @given(SEEN)
    def test_round_trip(self, seen: Seen) -> None:
        """What is written is read."""
        self.assertEqual(parse_answer(write_answer(seen)), seen)

    @given(st.binary() | st.from_regex(rb"torknock reflect isn=[0-9]{1,11} tsval=(none|[0-9]{1,11})\n?"))
    def test_any_octets(self, octets: bytes) -> None:
        """They are an answer, written in the one way, or raise `PathUnknown`."""
        try:
            seen = parse_answer(octets)
        except PathUnknown:
            return
        self.assertEqual(write_answer(seen), octets)
