"""Tests of what is made of tor's answers."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.tor.asked import Asked
from torknock.tor.inspect import facts


class Answers:
    """Gives the *answers*, by what is asked for."""

    def __init__(self, answers: dict[str, str]) -> None:
        self._answers = answers

    def get_info(self, name: str, *default: Any) -> Any:
        return self._answers.get(name, *(default or [""]))

    def get_conf(self, name: str, default: Any, multiple: bool) -> Any:
        return [self._answers[name]] if name in self._answers else default


class FactsTests(SynchronousTestCase):
    """What tor says of itself."""

    @given(st.text(), st.text(), st.text())
    def test_any_answers(self, version: str, pid: str, phase: str) -> None:
        """What is no number is none, and nothing is raised."""
        told = {"version": version, "process/pid": pid, "status/bootstrap-phase": phase}
        self.assertIsInstance(facts(cast(Asked, Answers(told))).version, tuple)

    def test_numbers_that_are_none(self) -> None:
        """Words, digits of other scripts and as many digits as no number has are as no answer."""
        for odd in ("many", "-1", "1.5", "\u0661", "9" * 5000):
            told = {"version": f"0.4.{odd}", "process/pid": odd, "status/bootstrap-phase": f"NOTICE PROGRESS={odd}"}
            found = facts(cast(Asked, Answers(told)))
            self.assertEqual((found.pid, found.bootstrapped, found.version[:2]), (None, None, (0, 4)))
