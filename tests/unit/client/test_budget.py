"""Tests of torknock.client.budget: how many SYNs leave for a bridge that does not let this client in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.client.budget import PORTS, SENT_AT, SYNS, WINDOW, Budget

OLDER = (0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0)
"""When Linux before 6.5 sends an unanswered SYN."""


class BudgetTests(SynchronousTestCase):
    """`Budget`."""

    @given(
        st.lists(st.tuples(st.floats(0.1, 130), st.floats(0, 1), st.floats(0, 200)), max_size=40),
        st.sampled_from([SENT_AT, OLDER]),
    )
    def test_limits_hold_in_every_two_minutes(
        self, dials: list[tuple[float, float, float]], sends: tuple[float, ...]
    ) -> None:
        """Whatever is wanted and however soon an answer comes: 11 SYNs from 3 ports, with what the kernel repeats."""
        budget, now, sent = Budget(), 0.0, list[tuple[float, int]]()
        for port, (wanted, used, idle) in enumerate(dials):
            now = max(now + idle, budget.ready_at())
            timeout = budget.timeout(now, wanted)
            self.assertTrue(0 < timeout <= wanted)
            until = now + timeout * used
            sent += [(now + after, port) for after in sends if after < until - now or not after]
            budget.spend(now, until)
            now = until
        for start, _ in sent:
            window = [(at, port) for at, port in sent if start <= at < start + 120]
            self.assertLessEqual(len(window), SYNS)
            self.assertLessEqual(len({port for _, port in window}), PORTS)

    def test_one_that_is_never_answered_is_a_plain_connect(self) -> None:
        """All that the kernel sends in two minutes, and then as long again."""
        budget = Budget()
        self.assertEqual(budget.timeout(0.0, 120.0), 120.0)
        budget.spend(0.0, 120.0)
        self.assertEqual(budget.ready_at(), WINDOW)
        self.assertEqual(budget.timeout(WINDOW, 120.0), 120.0)

    def test_the_kernel_sends_a_syn_again_at_these_times(self) -> None:
        """Each second at first, as often as tcp_syn_linear_timeouts says and once more; then each pause is doubled."""
        pauses = [1, 1, 1, 1, 1, 2, 4, 8, 16, 32]
        self.assertEqual(SENT_AT, tuple(float(sum(pauses[:number])) for number in range(len(pauses) + 1)))

    def test_what_is_left_is_waited_for(self) -> None:
        """A socket is closed before the SYN that would be one too many."""
        budget = Budget()
        budget.spend(0.0, 10.5)  # 7 SYNs
        self.assertEqual(budget.timeout(11.0, 120.0), SENT_AT[4] - 0.1)  # 4 more
        budget.spend(11.0, 11.0)
        self.assertEqual(budget.timeout(12.0, 120.0), SENT_AT[3] - 0.1)

    def test_an_answer_clears_it(self) -> None:
        """A bridge that lets this client in is not down."""
        budget = Budget()
        for _ in range(3):
            budget.spend(0.0, 0.0)
        self.assertEqual(budget.ready_at(), WINDOW)
        budget.clear()
        self.assertLess(budget.ready_at(), 0)
