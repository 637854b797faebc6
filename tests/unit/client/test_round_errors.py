"""Tests of torknock.client.round_errors: which of a round's errors is told."""

from __future__ import annotations

from twisted.internet.error import ConnectionRefusedError, TCPTimedOutError
from twisted.trial.unittest import SynchronousTestCase

from torknock.client.round_errors import BridgeSilent, NotTheBridge, RoundErrors, WrongPeer
from torknock.interfaces import Slipped


class RoundErrorsTests(SynchronousTestCase):
    """`RoundErrors`."""

    def setUp(self) -> None:
        self.errors = RoundErrors()

    def test_the_last_error_is_the_cause(self) -> None:
        """And tells whether an answer came."""
        for error, refused, how in (
            (TCPTimedOutError(), False, "nothing came back"), (ConnectionRefusedError(), True, "it refused"),
        ):  # fmt: skip
            self.errors.note(error)
            failure = self.errors.failure(3, "the line may be revoked", 7.0)
            self.assertEqual((failure.__cause__, failure.refused, failure.again_in), (error, refused, 7.0))
            self.assertIn(f"none of 3 connection attempts ({how}); the line may be revoked", str(failure))

    def test_a_syn_that_slipped_says_less_than_an_earlier_answer(self) -> None:
        """It counts only if nothing else is known."""
        slipped, refused = Slipped(), ConnectionRefusedError()
        self.errors.note(slipped)
        self.assertIs(self.errors.last, slipped)
        self.errors.note(refused)
        self.errors.note(slipped)
        self.assertIs(self.errors.last, refused)

    def test_another_peers_answer_is_told_whatever_came_after_it(self) -> None:
        """It is what a person must know; the cause is the last error all the same."""
        wrong, silent = WrongPeer("its certificate is another"), TCPTimedOutError()
        self.errors.note(wrong)
        self.errors.note(silent)
        failure = self.errors.failure(2, "", 7.0)
        self.assertIsInstance(failure, NotTheBridge)
        self.assertEqual((failure.__cause__, failure.refused, failure.again_in), (silent, True, 7.0))
        self.assertIn("its certificate is another", str(failure))

    def test_who_is_too_early_is_told_for_how_long(self) -> None:
        """With what the last round failed with."""
        refused = ConnectionRefusedError()
        self.errors.note(refused)
        failure = self.errors.backing_off(12.4)
        self.assertIn("next attempt in 12 s (it refused)", str(failure))
        self.assertEqual((failure.__cause__, failure.refused, failure.again_in), (refused, True, 12.4))

    def test_a_bridge_may_be_knocked_at_again_at_once_unless_it_is_said(self) -> None:
        """No round, no pause."""
        self.assertEqual(BridgeSilent("some", refused=False).again_in, 0.0)
