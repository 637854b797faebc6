"""Tests of torknock.gate.spent."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.gate.spent import SpentKnocks, SpentTokens, SpentUnusable


class SpentTokensTests(SynchronousTestCase):
    """What a bridge that starts anew knows."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.path = directory / "torknock-443.spent"

    def opened(self) -> SpentTokens:
        spent = SpentTokens(self.path)
        self.addCleanup(spent.close)
        return spent

    def test_what_was_added_is_read_by_the_next(self) -> None:
        """Without the first having closed anything: it may have been killed."""
        spent = self.opened()
        self.assertEqual(spent.read([7]), set())
        spent.add(7, 1)
        spent.add(7, 2**32 - 1)
        self.assertEqual(self.opened().read([7]), {(7, 1), (7, 2**32 - 1)})

    def test_other_epochs_are_forgotten(self) -> None:
        """The file does not grow for ever, and goes on to be written after it was cut."""
        spent = self.opened()
        spent.read([])
        spent.add(7, 1)
        spent.add(8, 2)
        self.assertEqual(spent.read([8, 9]), {(8, 2)})
        spent.add(9, 3)
        self.assertEqual(self.path.stat().st_size, 24)
        self.assertEqual(self.opened().read([7, 8, 9]), {(8, 2), (9, 3)})

    @given(st.integers(0, 23))
    def test_a_torn_record_is_left_out(self, size: int) -> None:
        """A power cut may leave any part of the file; what is written after it is whole again."""
        spent = self.opened()
        self.path.unlink(missing_ok=True)
        spent.read([])
        spent.add(7, 1)
        spent.add(7, 2)
        spent.close()
        os.truncate(self.path, size)
        kept = spent.read([7])
        self.assertEqual(kept, {(7, 1)} if size >= 12 else set())
        spent.add(7, 3)
        self.assertEqual(spent.read([7]), kept | {(7, 3)})

    def test_nobody_else_can_read_it(self) -> None:
        """Whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        self.opened().read([])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_a_disk_that_refuses_is_said(self) -> None:
        """In one line that names the file."""
        self.path.mkdir()
        self.assertIn(str(self.path), str(self.assertRaises(SpentUnusable, self.opened().read, [7])))
        self.path.rmdir()
        self.assertRaises(SpentUnusable, self.opened().add, 7, 1)


class SpentKnocksTests(SynchronousTestCase):
    """What a bridge that starts anew refuses."""

    def test_what_was_added_is_read_by_the_next(self) -> None:
        """As long as the line is known; the numbers are whole."""
        path = Path(self.mktemp()).absolute()
        spent = SpentKnocks(path)
        self.addCleanup(spent.close)
        spent.read([])
        spent.add(2**64 - 1, 2**32 - 1, 2**32 - 1)
        spent.add(7, 1, 0)
        spent.add(8, 1, 0)
        self.assertEqual(SpentKnocks(path).read([7, 2**64 - 1]), {(7, 1, 0), (2**64 - 1, 2**32 - 1, 2**32 - 1)})
        self.assertEqual(path.stat().st_size, 32)
