"""Tests of torknock.kernel.generations."""

from __future__ import annotations

import gc
import weakref

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.generations import take_for_old


class GenerationTests(SynchronousTestCase):
    """`take_for_old`."""

    def setUp(self) -> None:
        self.addCleanup(gc.enable)
        gc.disable()

    def test_what_is_new_is_not_looked_at_among_what_is_young(self) -> None:
        """It is in the oldest generation."""
        new = set(range(1000))
        self.assertTrue(any(each is new for each in gc.get_objects(0)))
        take_for_old()
        for young in (0, 1):
            self.assertFalse(any(each is new for each in gc.get_objects(young)))
        self.assertTrue(any(each is new for each in gc.get_objects(2)))

    def test_a_cycle_that_is_taken_for_old_is_still_collected(self) -> None:
        """Nothing is kept for ever."""

        class Cycle:
            def __init__(self) -> None:
                self.itself = self

        made = Cycle()
        gone = weakref.ref(made)
        take_for_old()
        del made
        gc.collect()
        self.assertIsNone(gone())
