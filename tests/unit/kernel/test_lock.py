"""Tests of torknock.kernel.lock: one at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.lock import alone_in, try_lock


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

    def test_others_wait_until_the_lock_is_released(self) -> None:
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

    def test_a_file_cannot_be_locked_as_a_directory(self) -> None:
        """A file is none."""
        (self.directory / "file").touch()
        for name, error in (("nothing", FileNotFoundError), ("file", NotADirectoryError)):
            with self.assertRaises(error), alone_in(self.directory / name):
                self.fail("it was held")


class TryLockTests(SynchronousTestCase):
    """`try_lock`: what one process has, another has not."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "doors"

    def test_the_first_has_it(self) -> None:
        """Until it lets go; other names are free."""
        held = try_lock(self.directory, "a")
        assert held is not None
        self.assertIsNone(try_lock(self.directory, "a"))
        other = try_lock(self.directory, "b")
        assert other is not None
        os.close(held)
        again = try_lock(self.directory, "a")
        assert again is not None
        for each in (other, again):
            os.close(each)

    def test_a_directory_for_its_owner_alone(self) -> None:
        """It is made so, whatever the umask is; one that others may enter, or a link to one, is refused."""
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        held = try_lock(self.directory, "a")
        assert held is not None
        os.close(held)
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        self.directory.chmod(0o711)
        self.assertRaises(PermissionError, try_lock, self.directory, "a")
        link = self.directory.with_name("link")
        link.symlink_to(self.directory)
        self.assertRaises(OSError, try_lock, link, "a")

    def test_what_is_no_plain_file_blocks_nobody(self) -> None:
        """A FIFO is locked as a file is, a link is refused."""
        self.directory.mkdir(0o700, parents=True)
        os.mkfifo(self.directory / "fifo")
        held = try_lock(self.directory, "fifo")
        assert held is not None
        os.close(held)
        (self.directory / "link").symlink_to("/dev/null")
        self.assertRaises(OSError, try_lock, self.directory, "link")
