"""Tests of `torknock setup` on a machine where nothing can be written: a mounted rescue system, a disk with errors."""

from __future__ import annotations

from tests.tornet.test_setup import OFFLINE, Case
from torknock.operate.setup.place import RECORD


class ReadOnlyTests(Case):
    """One line that says what and where, no traceback, and everything as it was."""

    def read_only(self, directory: str, on: bool = True) -> None:
        """Have *directory* be one that cannot be written on the machine."""
        self.debian.run("mount", "--bind", directory, directory)
        done = self.debian.run("mount", "-o", f"remount,bind,{'ro' if on else 'rw'}", directory)
        self.assertEqual(done.returncode, 0, done.stderr)

    def assert_said(self, *command: str, where: str) -> None:
        self.torknock(*command, status=1)
        [said] = [line for line in self.told.splitlines() if line.startswith("torknock: ") and "Read-only" in line]
        self.assertIn(where, said)
        self.assertNotIn("Traceback", self.told)

    def test_each_place_that_is_written(self) -> None:
        """Of a bridge, of a person's own tor, and of what is undone."""
        self.debian.start_tor(OFFLINE)
        self.debian.run("useradd", "--no-create-home", "alice")
        bridge = ("setup", "bridge", "--address", self.bridge.address, "--yes")
        own = ("setup", "client", "--user", "alice", "--yes")
        before = self.torrc()
        for directory in ("/etc", "/var/lib"):
            self.read_only(directory)
            for command in (bridge, own):
                self.torknock(*command, status=1)
                self.assertNotIn("Traceback", self.told, command)
                self.assertIn("torknock: ", self.told.splitlines()[-1])
                self.assertRegex(self.told.splitlines()[-1], "(?i)read-only|cannot lock|no such file|setup.json")
            self.debian.run("umount", directory)
            self.assertEqual(self.torrc(), before)
            self.assertFalse(self.debian.path(str(RECORD)).exists())
        self.torknock(*bridge)
        self.read_only("/etc")
        self.assert_said("setup", "--undo", where="/etc")
        self.debian.run("umount", "/etc")
        self.torknock("setup", "--undo")
        self.assertEqual(self.torrc(), before)
