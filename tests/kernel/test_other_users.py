"""Tests of what root does where another user owns a directory: with files, and with a keyring."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.unit.kernel.test_files import GROUP, USER, FilesCase
from tests.unit.keyring.test_lines import KeyringCase
from torknock.kernel.files import as_owner, directory_of_others, read_file, replace_file

needs_root = None if os.geteuid() == 0 else "only root can be another user"


class FilesTests(FilesCase):
    """torknock.kernel.files, in a directory of another user's."""

    skip = needs_root

    def test_no_more_is_read_than_its_owner_could(self) -> None:
        """A link in another user's directory leads to nothing of root's, nor of root's groups."""
        for mode in (0o600, 0o640):
            secret = self.place.parent / f"secret{mode}"
            secret.write_text("of root's")
            secret.chmod(mode)
            link = self.place / f"link{mode}"
            link.symlink_to(secret)
            self.assertRaises(PermissionError, read_file, link, 100)
            self.assertEqual(read_file(secret, 100), b"of root's")

    def test_a_link_of_roots_into_a_directory_of_another_user(self) -> None:
        """It is read as that user, too."""
        mine, theirs = self.place.parent / "link", self.place / "file"
        mine.symlink_to(theirs)
        theirs.write_text("of theirs")
        theirs.chmod(0o600)
        self.assertRaises(PermissionError, read_file, mine, 100)  # it is still root's
        os.chown(theirs, USER, GROUP)
        self.assertEqual(read_file(mine, 100), b"of theirs")
        theirs.unlink()
        theirs.symlink_to("../secret")
        (self.place.parent / "secret").write_text("of root's")
        (self.place.parent / "secret").chmod(0o600)
        self.assertRaises(PermissionError, read_file, mine, 100)
        theirs.unlink()
        theirs.symlink_to("file")
        self.assertRaises(OSError, read_file, mine, 100)  # for ever

    def test_a_file_is_replaced_for_another_owner(self) -> None:
        """Which root alone can give."""
        path = self.place / "file"
        replace_file(path, b"new", 0o640, (USER, GROUP))
        found = path.stat()
        self.assertEqual((found.st_uid, found.st_gid, found.st_mode & 0o7777), (USER, GROUP, 0o640))

    def test_root_acts_as_the_owner_and_is_root_again(self) -> None:
        """With that user's group alone."""
        program = (
            "import os, sys; from pathlib import Path; from torknock.kernel.files import as_owner\n"
            "before = os.getresuid(), os.getresgid(), os.getgroups()\n"
            "with as_owner(Path(sys.argv[1])): print(os.geteuid(), os.getegid(), os.getgroups())\n"
            "print((os.getresuid(), os.getresgid(), os.getgroups()) == before)\n"
        )
        arguments = [sys.executable, "-c", program, str(self.place / "file")]
        told = subprocess.run(arguments, capture_output=True, text=True, check=True, extra_groups=[7, 8]).stdout
        self.assertEqual(told, f"{USER} {GROUP} []\nTrue\n")

    def test_what_is_roots_is_read_as_root(self) -> None:
        """Nothing changes."""
        with as_owner(Path("/etc/passwd")):
            self.assertEqual(os.geteuid(), 0)

    def test_another_users_link_is_no_way_of_roots(self) -> None:
        """Also where that user may not write what is beside it."""
        roots = self.place.parent / "roots"
        roots.mkdir()
        roots.chmod(0o1777)
        link = roots / "link"
        link.symlink_to(roots)
        os.lchown(link, USER, GROUP)
        self.assertEqual(directory_of_others(link / "file"), link)
        os.lchown(link, 0, 0)
        self.assertIsNone(directory_of_others(link / "file"))


class KeyringTests(KeyringCase):
    """torknock.keyring, in a directory of another user's."""

    skip = needs_root

    def test_what_root_makes_is_the_owners_of_the_place(self) -> None:
        """A keyring under tor's directory is tor's, and so is what SQLite adds to it."""
        os.chown(self.above, 12345, 12346)
        self.open()
        for path in (self.directory.parent, self.directory, *self.directory.iterdir()):
            self.assertEqual((path.stat().st_uid, path.stat().st_gid), (12345, 12346))

    def test_root_follows_no_link_of_the_owner(self) -> None:
        """What tor's user puts in the keyring's place leads root to nothing that this user cannot reach himself."""
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        roots = Path(temporary.name)
        roots.chmod(0o711)
        os.chown(self.above, 12345, 12346)
        self.directory.parent.mkdir()
        self.directory.symlink_to(roots)
        self.assertIn("permission denied", self.refused(create=True))
        self.assertEqual((list(roots.iterdir()), os.geteuid(), os.getegid()), ([], 0, 0))

    def test_another_users_keyring_is_refused(self) -> None:
        """One that all can read cannot be mended by a stranger; one that is private cannot be read."""
        self.open().close()
        for path in (self.above, self.directory.parent, self.directory):
            path.chmod(0o711)
        (self.directory / "keyring.sqlite").chmod(0o644)
        self.addCleanup(os.seteuid, 0)
        os.seteuid(12345)
        self.assertIn("others can read", self.refused())
        os.seteuid(0)
        (self.directory / "keyring.sqlite").chmod(0o600)
        os.seteuid(12345)
        self.assertIn("permission denied", self.refused())
        os.seteuid(0)
        self.directory.chmod(0o700)
        os.seteuid(12345)
        self.assertIn("permission denied", self.refused(create=False))
