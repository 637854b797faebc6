"""Tests of torknock.lock: one at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.lock import alone_in


class AloneTests(SynchronousTestCase):
    """`alone_in`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def free(self) -> bool:
        """Whether nobody holds the directory."""
        other = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(other)
        return True

    def test_others_wait(self) -> None:
        """Until it is let go; nothing is left in the directory."""
        with alone_in(self.directory) as held:
            self.assertTrue(os.path.samestat(os.fstat(held), self.directory.stat()))
            self.assertFalse(self.free())
        self.assertTrue(self.free())
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_an_error_lets_go(self) -> None:
        """It is raised to whoever asked."""
        with self.assertRaises(ZeroDivisionError), alone_in(self.directory):
            raise ZeroDivisionError
        self.assertTrue(self.free())

    def test_no_directory(self) -> None:
        """A file is none."""
        (self.directory / "file").touch()
        for name, error in (("nothing", FileNotFoundError), ("file", NotADirectoryError)):
            with self.assertRaises(error), alone_in(self.directory / name):
                self.fail("it was held")
