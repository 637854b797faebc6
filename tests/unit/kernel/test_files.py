"""Tests of torknock.kernel.files: files are replaced whole, and nothing else is taken for one.

What root does with the files of other users is in `tests.kernel.test_other_users`.
"""

from __future__ import annotations

import os
import resource
import socket
import tempfile
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.files import directory_of_others, draft_of, read_end, read_file, read_own, replace_file

USER, GROUP = 12345, 12346


class FilesCase(SynchronousTestCase):
    """A directory of another user's, in which root reads."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="files-")
        self.addCleanup(temporary.cleanup)
        os.chmod(temporary.name, 0o755)  # noqa: S103  others look into it
        self.place = Path(temporary.name) / "theirs"
        self.place.mkdir()
        if os.geteuid() == 0:
            os.chown(self.place, USER, GROUP)


class ReadTests(FilesCase):
    """`read_file` and `read_end`."""

    def test_a_file_is_read(self) -> None:
        """All of it, or its end."""
        path = self.place / "file"
        path.write_bytes(bytes(range(100)))
        self.assertEqual(read_file(path, 100), bytes(range(100)))
        self.assertEqual(read_end(path, 10), bytes(range(90, 100)))
        self.assertEqual(read_end(path, 1000), bytes(range(100)))

    def test_too_long_a_file_is_refused(self) -> None:
        """However long it is."""
        path = self.place / "file"
        path.touch()
        os.truncate(path, 1 << 40)
        self.assertRaises(OSError, read_file, path, 1 << 16)
        self.assertEqual(len(read_end(path, 1 << 16)), 1 << 16)

    def test_what_is_no_file_is_refused_at_once(self) -> None:
        """A pipe without a writer, devices without an end, sockets, directories; also behind a link."""
        os.mkfifo(self.place / "pipe")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.place / "socket"))
        for number, what in enumerate(("pipe", "socket", ".", "/dev/zero", "/dev/tty", "/dev/full")):
            link = self.place / f"link{number}"
            link.symlink_to(what)
            for path in (link, self.place / what):
                self.assertRaises(OSError, read_file, path, 1 << 16)
                self.assertRaises(OSError, read_end, path, 1 << 16)

class ReadOwnTests(FilesCase):
    """`read_own`."""

    def test_a_file_up_to_the_limit_is_read(self) -> None:
        """One octet more is refused, and so is a pipe, at once."""
        path = self.place / "file"
        path.write_bytes(b"0123456789")
        self.assertEqual(read_own(path, 10), b"0123456789")
        self.assertRaises(OSError, read_own, path, 9)
        os.mkfifo(self.place / "pipe")
        self.assertRaises(OSError, read_own, self.place / "pipe", 10)
        self.assertRaises(FileNotFoundError, read_own, self.place / "nothing", 10)


class ReplaceTests(FilesCase):
    """`replace_file`."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.place / "file"

    def test_the_file_and_its_directory_are_synced(self) -> None:
        """The file before it takes its name, the directory afterwards."""
        seen = []

        def synced(descriptor: int) -> None:
            named = Path(f"/proc/self/fd/{descriptor}").resolve()
            seen.append((named.name, self.path.exists()))

        with mock.patch("os.fsync", synced):
            replace_file(self.path, b"new")
        self.assertEqual(seen, [(draft_of(self.path).name, False), (self.place.name, True)])

    def test_mode_and_owner(self) -> None:
        """0600 whatever the umask is, unless another mode is asked for."""
        self.addCleanup(os.umask, os.umask(0o077))
        replace_file(self.path, b"new")
        self.assertEqual(self.path.stat().st_mode & 0o7777, 0o600)
        replace_file(self.path, b"newer", 0o644, (os.getuid(), os.getgid()))
        self.assertEqual((self.path.stat().st_mode & 0o7777, self.path.read_bytes()), (0o644, b"newer"))

    def test_a_disk_that_refuses_changes_nothing(self) -> None:
        """The old file stays, and no draft: here a file may not become longer than a page."""
        replace_file(self.path, b"old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        self.assertRaises(OSError, replace_file, self.path, bytes(4097))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual(self.path.read_bytes(), b"old")
        self.assertEqual(list(self.place.iterdir()), [self.path])

    def test_what_an_interrupted_process_left_is_in_no_ones_way(self) -> None:
        """A draft is removed, not followed."""
        elsewhere = self.place / "elsewhere"
        elsewhere.write_bytes(b"untouched")
        draft_of(self.path).symlink_to(elsewhere)
        replace_file(self.path, b"new")
        self.assertEqual((self.path.read_bytes(), elsewhere.read_bytes()), (b"new", b"untouched"))

    def test_each_file_has_a_draft_of_its_own(self) -> None:
        """Two that differ in their suffix alone are written at the same time."""
        self.assertNotEqual(draft_of(self.place / "door.spent"), draft_of(self.place / "door.knocks"))


class DirectoryTests(FilesCase):
    """`directory_of_others`."""

    def setUp(self) -> None:
        super().setUp()
        self.trusted: tuple[int, ...] = (0, os.getuid())
        self.roots = self.place.parent / "roots"
        self.roots.mkdir()

    def found(self, path: Path) -> Path | None:
        return directory_of_others(path, self.trusted)

    def test_root_alone(self) -> None:
        """Also below a directory of root's where everybody has files; the name itself need not be there."""
        for sticky in (0o1777, 0o1775):
            self.roots.chmod(sticky)
            self.assertIsNone(self.found(self.roots / "file"))
        self.assertIsNone(directory_of_others(Path("/file")))

    def test_every_directory_on_the_way(self) -> None:
        """Its group and everybody else may be the other user."""
        below = self.roots / "a" / "b"
        below.mkdir(parents=True)
        below.chmod(0o755)
        self.assertIsNone(self.found(below / "file"))
        for each in (self.roots, self.roots / "a", below):
            for mode in (0o775, 0o757):
                each.chmod(mode)
                self.assertEqual(self.found(below / "file"), each)
            each.chmod(0o1755)
        self.assertIsNone(self.found(below / "file"))

    def test_its_owner_may_be_the_other_user(self) -> None:
        """The first one whose owner does not stand for root is named."""
        below = self.place / "below"
        below.mkdir()
        way = [*reversed((below / "file").absolute().parents)]
        others = next(each for each in way if each.stat().st_uid != 0) if os.getuid() else self.place
        self.assertEqual(directory_of_others(below / "file"), others)
        self.trusted += (others.stat().st_uid,)
        self.assertIsNone(self.found(below / "file"))

    def test_where_links_lead(self) -> None:
        """Each is followed, through directories that are on no other way; one that anyone may write leads anywhere."""
        self.trusted += (self.place.stat().st_uid,)
        self.roots.chmod(0o1777)
        target = self.roots / "target"
        target.mkdir()
        first, second = self.roots / "link", self.place / "link"
        first.symlink_to(second)
        second.symlink_to("../roots/target")
        self.assertIsNone(self.found(first / "file"))
        self.place.chmod(0o777)
        self.assertEqual(self.found(first / "file"), self.place)
        self.place.chmod(0o755)
        second.unlink()
        second.symlink_to(second)
        self.assertRaises(OSError, self.found, first / "file")
        self.assertRaises(FileNotFoundError, self.found, self.roots / "nothing" / "file")

