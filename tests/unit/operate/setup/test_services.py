"""Tests of changes to what runs and to accounts: service_changes, daemons and account_changes of a set-up."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.proc import started_at
from torknock.operate.setup import daemons, programs
from torknock.operate.setup.account_changes import Member, User
from torknock.operate.setup.changes import CannotChange
from torknock.operate.setup.daemons import StartedProcess, listener_pid
from torknock.operate.setup.programs import run
from torknock.operate.setup.service_changes import Process, Unit

ABSENT = "torknock-user-of-no-host"
LISTENS = """
import contextlib, os, signal, socket, sys
if "--nonsense" in sys.argv:
    sys.exit("no such option: --nonsense")
made = socket.socket(socket.AF_UNIX)
with contextlib.suppress(FileNotFoundError):
    os.unlink(sys.argv[1])
made.bind(sys.argv[1])
made.listen()
signal.pause()
"""
SELF = pwd.getpwuid(os.geteuid()).pw_name


class ProcessTests(SynchronousTestCase):
    """A service without systemd: a program that listens, in a directory of torknock's."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.socket = str(self.directory / "run" / "dial.sock")

    def service(self, *options: str, group: int = 0) -> Process:
        """The change, ended with the test."""
        command = ["env", sys.executable, "-c", LISTENS, self.socket, *options]
        change = Process(command, SELF, self.socket, group, str(self.directory / "log" / "dial.log"))
        self.addCleanup(daemons.end_listener, self.socket)
        return change

    def test_it_is_started_once_and_ended_by_the_undo(self) -> None:
        """The next set-up finds it running; all users may open its socket."""
        change = self.service()
        self.assertTrue(change.is_needed())
        change.inspect([])
        change.make()
        self.assertFalse(self.service().is_needed())
        self.assertEqual(listener_pid(self.socket), change.started["pid"])
        self.assertEqual(Path(self.socket).stat().st_mode & 0o777, 0o666)
        self.assertEqual(change.undo(), "")
        self.assertIsNone(listener_pid(self.socket))
        self.assertIsNone(started_at(change.started["pid"]))

    def test_another_command_replaces_the_service_that_runs(self) -> None:
        """Its socket may be for one group; an undo of an interrupted set-up ends what listens."""
        first = self.service()
        first.make()
        second = self.service("--user", SELF, group=os.getegid() or 1)
        self.assertTrue(second.is_needed())
        second.merged_with(first).make()
        self.assertEqual(Path(self.socket).stat().st_mode & 0o777, 0o660)
        self.assertIsNone(started_at(first.started["pid"]))
        interrupted = self.service("--user", SELF)
        self.assertEqual(interrupted.undo(), "")
        self.assertIsNone(listener_pid(self.socket))

    def test_a_service_that_does_not_start_is_named_with_its_log(self) -> None:
        """Which says why."""
        change = self.service("--nonsense")
        with self.assertRaisesRegex(CannotChange, f"does not start; see {change.log}"):
            change.make()
        self.assertIn("--nonsense", Path(change.log).read_text())

    def test_a_program_that_is_not_torknock_is_not_ended(self) -> None:
        """It may listen there, and goes on."""
        Path(self.socket).parent.mkdir()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.socket)
            listening.listen()
            self.patch(daemons, "_is_ours", lambda _pid: False)
            daemons.end_listener(self.socket)
            self.assertEqual(listener_pid(self.socket), os.getpid())

    def test_a_process_with_a_used_id_is_not_ended(self) -> None:
        """It began at another time."""
        daemons.end(StartedProcess(os.getpid(), 1))
        self.assertIsNotNone(started_at(os.getpid()))

    def test_only_a_socket_is_opened_to_others(self) -> None:
        """A file or a link in its place keeps its mode."""
        path = self.directory / "file"
        path.touch(mode=0o600)
        link = self.directory / "link"
        link.symlink_to(path)
        for each in (path, link):
            self.assertRaises(OSError, daemons._open_to, str(each), 0)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)


class UnitTests(SynchronousTestCase):
    """A unit of systemd's, of a name that no host has."""

    def test_it_is_needed_where_systemd_does_not_have_it(self) -> None:
        """It was not enabled before; what was is enabled after an undo."""
        unit = Unit(f"{ABSENT}.socket")
        self.assertEqual(unit.key, (f"{ABSENT}.socket",))
        self.assertTrue(unit.is_needed())
        unit.inspect([])
        self.assertFalse(unit.before)
        self.assertTrue(unit.merged_with(Unit(unit.name, before=True)).before)

    def test_what_systemd_refuses_is_the_reason(self) -> None:
        """With the command."""
        with self.assertRaisesRegex(CannotChange, "systemctl .* ended with"):
            Unit(f"{ABSENT}.socket").make()


class AccountTests(SynchronousTestCase):
    """Users and groups."""

    def test_an_account_that_exists_is_not_made_again(self) -> None:
        """One that does not is described and made, which an ordinary user may not."""
        self.assertFalse(User(SELF).is_needed())
        self.assertEqual(User(SELF).merged_with(User(SELF)), User(SELF))
        absent = User(ABSENT)
        self.assertTrue(absent.is_needed())
        self.assertEqual(absent.describe(), f"make the system user and group {ABSENT}")
        self.assertEqual(absent.undo(), "")

    def test_a_command_that_fails_is_reported_in_its_words(self) -> None:
        """A name that useradd takes for an option fails for everyone."""
        self.assertRaisesRegex(CannotChange, "^useradd .* ended with [1-9]", User("--nonsense").make)

    def test_membership_is_needed_once(self) -> None:
        """A group that does not exist yet has no members."""
        self.assertTrue(Member(SELF, ABSENT).is_needed())
        self.assertEqual(Member(SELF, ABSENT).undo(), "")
        self.assertEqual(Member(SELF, ABSENT).describe(), f"add {SELF} to the group {ABSENT}")
        for group in grp.getgrall():
            for name in group.gr_mem:
                self.assertFalse(Member(name, group.gr_name).is_needed())
        with self.assertRaisesRegex(CannotChange, f"^usermod .* {ABSENT} {SELF} ended with"):
            Member(SELF, ABSENT).make()


class ProgramTests(SynchronousTestCase):
    """Programs of the host."""

    def test_a_program_that_is_missing_or_hangs_is_named(self) -> None:
        """It is killed in the second case."""
        self.assertRaisesRegex(CannotChange, "the command torknock-absent is missing", run, "torknock-absent")
        self.patch(programs, "_ENDS_WITHIN", 0.1)
        self.assertRaisesRegex(CannotChange, "sleep 60 has not ended within 0 s, and was killed", run, "sleep", "60")

    def test_the_last_line_says_why_it_failed(self) -> None:
        """Unless the status is asked for."""
        self.assertRaisesRegex(CannotChange, "false ended with 1: nothing said", run, "false")
        self.assertEqual(run("false", check=False).status, 1)
        self.assertEqual(run("echo", "yes").output, "yes\n")
