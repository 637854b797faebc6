"""Tests of torknock.privileged.gate.admitted: whether the kernel's set is what it was given."""

from __future__ import annotations

from collections.abc import Collection

from twisted.trial.unittest import SynchronousTestCase

from torknock.privileged.gate.admitted import AdmittedTokens


class AdmittedTokensTests(SynchronousTestCase):
    """`AdmittedTokens`."""

    def setUp(self) -> None:
        self.tokens = AdmittedTokens()
        self.tokens.add({1, 2}, until=600.0, now=0.0)

    def matches(self, held: set[int], claimed: Collection[int] = (), now: float = 1.0) -> bool:
        return self.tokens.match(held, set(claimed), now)

    def test_exactly_what_was_added_and_not_used_is_held(self) -> None:
        """What is missing must have been claimed, and nothing else may be there."""
        self.assertTrue(self.matches({1, 2}))
        self.assertTrue(self.matches({2}, {1}))
        self.assertFalse(self.matches({2}))
        self.assertFalse(self.matches({1, 2, 3}))

    def test_what_was_removed_must_be_gone(self) -> None:
        """A token of a revoked line."""
        self.tokens.remove([1, 7])
        self.assertTrue(self.matches({2}))
        self.assertFalse(self.matches({1, 2}))

    def test_an_empty_table_holds_nothing(self) -> None:
        """As one that was just made."""
        self.tokens.clear()
        self.assertTrue(self.matches(set()))
        self.assertFalse(self.matches({1}))

    def test_what_has_run_out_must_be_gone_within_two_seconds(self) -> None:
        """The kernel's clock and this process's differ a little: near the end either may be."""
        for now, may_be_there, may_be_gone in (
            (597.0, True, False), (599.0, True, True), (601.0, True, True), (603.0, False, True),
        ):  # fmt: skip
            self.assertEqual(self.matches({1, 2}, now=now), may_be_there, now)
            self.assertEqual(self.matches(set(), now=now), may_be_gone, now)

    def test_a_token_that_is_added_again_keeps_its_time(self) -> None:
        """As in the kernel, which does not prolong an element that is there."""
        self.tokens.add({2, 3}, until=900.0, now=300.0)
        self.assertTrue(self.matches({1, 2, 3}, now=301.0))
        self.assertTrue(self.matches({3}, now=700.0))
        self.assertFalse(self.matches({2, 3}, now=700.0))

    def test_one_that_comes_again_after_it_ran_out_has_a_new_time(self) -> None:
        """The batch in which it was before is forgotten."""
        self.tokens.add({1}, until=1200.0, now=603.0)
        self.assertTrue(self.matches({1}, now=700.0))
        self.assertFalse(self.matches(set(), now=700.0))
