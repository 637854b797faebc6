"""Tests of `torknock.operate.firewall.fate`: what is said of a SYN if something, or nothing, is known."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.firewall.fate import Fate, Judgement, unjudged


class JudgementTests(SynchronousTestCase):
    """`Judgement`."""

    def test_one_possible_fate_is_the_fate(self) -> None:
        """Nothing is in doubt."""
        for fate in {*Fate} - {Fate.UNKNOWN}:
            self.assertIs(Judgement(frozenset({fate})).fate, fate)

    def test_of_several_none_is_the_fate(self) -> None:
        """Also if the other one cannot be judged: a port that may be let in is not let in."""
        for other in (Fate.DROPPED, Fate.UNKNOWN):
            self.assertIsNone(Judgement(frozenset({Fate.PASSED, other}), ("rule 7",)).fate)

    def test_what_cannot_be_judged_has_no_fate_and_says_why(self) -> None:
        """It is neither let in nor dropped."""
        judged = unjudged("rule 7", "rule 8")
        self.assertEqual((judged.fates, judged.doubts), (frozenset({Fate.UNKNOWN}), ("rule 7", "rule 8")))
        self.assertIsNone(judged.fate)
