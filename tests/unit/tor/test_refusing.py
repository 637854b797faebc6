"""Tests of torknock.tor.refusing: a tor that runs and takes no clients. tests.tornet.test_watch asks a real one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.tor.refusing import refusing

END = "2026-12-01 00:00:00"


class RefusingTests(SynchronousTestCase):
    """`refusing`."""

    @given(st.text(), st.text(), st.text())
    def test_any_answers(self, hibernating: str, interval_end: str, disabled: str) -> None:
        """What is not a state of tor's is no reason."""
        told = refusing(hibernating, interval_end, disabled)
        self.assertEqual(bool(told), disabled == "1" or hibernating in ("soft", "hard", "exiting"))

    def test_one_that_takes_clients(self) -> None:
        """Awake, or without accounting."""
        for hibernating in ("awake", "", "something new"):
            self.assertEqual(refusing(hibernating, END, "0"), "")

    def test_the_state_is_named_and_until_when(self) -> None:
        """Each state of tor's, as control-spec has them."""
        for hibernating, disabled, words in (
            ("soft", "0", ("AccountingMax", END)),
            ("hard", "0", ("hibernates", "AccountingMax", END)),
            ("exiting", "0", ("shutting down",)),
            ("awake", "1", ("DisableNetwork",)),
            ("hard", "1", ("DisableNetwork",)),
        ):
            told = refusing(hibernating, END, disabled)
            for word in words:
                self.assertIn(word, told)
