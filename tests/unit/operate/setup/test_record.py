"""Tests of what a set-up changes: made, taken back, broken off, and made by two at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.setup.changes import CannotChange, Change, Reader
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.record import Record

needs_root = None if os.geteuid() == 0 else "giving files away needs root"

OWNER = (4711, 4712) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
"""Whose torrc is: another user's, where this process can give it away."""

_TOUCHES = ("os.mkdir", "os.rmdir", "os.rename", "os.remove", "os.chmod", "os.chown")


class Case(SynchronousTestCase):
    """With a directory in the place of a host."""

    def setUp(self) -> None:
        self.host = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.host)
        self.torrc = self.host / "torrc"
        self.torrc.write_bytes(b"Log notice stdout\r\n# caf\xe9\nContactInfo nobody \\")
        self.record = Record(self.host / "lib" / "setup.json")
        self.before = self.state()

    def state(self) -> dict[str, bytes | None]:
        """Every name on the host, and what is in it."""
        return {
            str(path.relative_to(self.host)): path.read_bytes() if path.is_file() else None
            for path in self.host.rglob("*")
        }

    def wishes(self, word: str) -> list[Change]:
        """A set-up's."""
        return [
            File(str(self.host / "units" / "tor" / "one.socket"), f"[Socket]\n# {word}\n"),
            File(str(self.host / "torrc.d" / "ours.conf"), f"Option {word}\n", 0o640, reader=Reader.TOR),
            Block(str(self.torrc), f"%include torrc.d/{word}\n", Reader.TOR),
        ]

    def include(self, word: str) -> str:
        """The lines of `wishes` in torrc."""
        return f"%include torrc.d/{word}\n"

    def make(self, word: str, fails: Exception | None = None) -> None:
        with self.record.locked(), self.record.making([each for each in self.wishes(word) if each.is_needed()]):
            if fails is not None:
                raise fails

    def undo(self) -> list[str]:
        with self.record.locked():
            return list(self.record.undo())


class DirectoryTests(Case):
    """Where the record is: who can replace it has root write files."""

    def test_no_set_up_and_no_undo_begins_while_others_can_write_its_directory(self) -> None:
        """Nothing is changed meanwhile; once it is this user's alone, both begin."""
        self.make("a")
        self.host.chmod(0o777)
        self.refused(self.host)
        self.host.chmod(0o700)
        self.assertEqual(self.undo(), [])
        self.assertEqual(self.state(), self.before)

    def test_no_set_up_and_no_undo_begins_in_a_directory_of_another_user(self) -> None:
        """Neither in the record's own, nor in one above it."""
        self.make("a")
        for directory, mode in ((self.host / "lib", 0o700), (self.host, 0o755)):
            os.chown(directory, 12345, 0)
            directory.chmod(mode)
            self.refused(directory)
            os.chown(directory, 0, 0)
        self.assertEqual(self.undo(), [])
        self.assertEqual(self.state(), self.before)

    test_no_set_up_and_no_undo_begins_in_a_directory_of_another_user.skip = needs_root  # type: ignore[attr-defined]

    def refused(self, directory: Path) -> None:
        """A set-up and an undo are, for *directory*, and change nothing."""
        before = self.state()
        for command in (lambda: self.make("b"), self.undo):
            with self.assertRaisesRegex(CannotChange, f"^{directory} can be written by others than root"):
                command()
        self.assertEqual(self.state(), before)

    def test_a_directory_that_this_user_may_not_make_is_named_with_the_remedy(self) -> None:
        """`torknock setup` of an ordinary user ends so, before anything is changed."""
        self.host.chmod(0o500)
        self.addCleanup(self.host.chmod, 0o700)
        if os.geteuid() == 0:  # whom no mode keeps out
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)
        told = f"^cannot change {self.host}/lib: Permission denied; run it as root$"
        with self.assertRaisesRegex(CannotChange, told):
            self.make("a")


class ChangesTests(Case):
    """Files and lines."""

    def test_an_undo_restores_every_octet(self) -> None:
        """Whatever was in the file that got lines: CRLF, another encoding, no line end, a line that goes on."""
        self.make("a")
        self.assertEqual(
            self.torrc.read_bytes(), b"Log notice stdout\r\n# caf\xe9\nContactInfo nobody \\\n\n%include torrc.d/a\n"
        )
        self.assertEqual(self.undo(), [])
        self.assertEqual(self.state(), self.before)

    def test_every_torrc_that_tor_takes(self) -> None:
        """tor reads our part and means the same by the rest; the undo gives back octets, owner, mode and kind."""
        snippet = self.host / "torrc.d" / "ours.conf"
        target = self.host / "elsewhere"
        endings = [b"", b"\n", b"\r\n", b" \\", b" \\\n", b" \\\r\n", b" \\\n\t\n"]
        endings += [b"\n# a comment \\", b"\n\n \t", b"\n# \xe9"]
        texts = [b"Nickname mine\r\n# caf\xe9\r\nContactInfo nobody" + ending for ending in endings]
        for text in (b"", b"\n", b"# \xff\xfe", *texts):
            self.torrc.unlink()
            target.write_bytes(text)
            target.chmod(0o604)
            os.chown(target, *OWNER)
            self.torrc.symlink_to(target)
            before, told = self.state(), self.dumped()
            wishes: list[Change] = [File(str(snippet), "ORPort 127.0.0.1:4711\n", reader=Reader.TOR),
                                    Block(str(self.torrc), f"%include {snippet}\n", Reader.TOR)]  # fmt: skip
            with self.record.locked(), self.record.making(wishes):
                self.assertEqual(self.dumped(), {*told, "ORPort 127.0.0.1:4711"}, text)
            self.assertEqual(self.undo(), [])
            status = target.stat()
            self.assertEqual((self.state(), self.torrc.is_symlink()), (before, True), text)
            self.assertEqual((status.st_mode & 0o7777, status.st_uid, status.st_gid), (0o604, *OWNER))

    def dumped(self) -> set[str]:
        """What tor reads in torrc."""
        command = ["tor", "-f", str(self.torrc), "--defaults-torrc", "/dev/null", "--hush", "--dump-config", "short"]
        done = subprocess.run(command, capture_output=True, check=True)
        return set(done.stdout.decode("ascii").splitlines()) - {"Nickname Unnamed"}  # a relay's that has none

    def test_lines_that_were_added_behind_ours(self) -> None:
        """They do not become part of the line before, which had no end; nor do those of two set-ups."""
        for ending in (b"", b"\n", b" \\", b"\r\n"):
            self.torrc.write_bytes(b"ContactInfo nobody" + ending)
            self.make("a")
            with self.torrc.open("ab") as file:
                file.write(b"Nickname mine\n")
            self.make("b")
            self.assertEqual(self.undo(), [])
            lines = self.torrc.read_bytes().split(b"\n")
            self.assertIn(b"Nickname mine", lines)
            self.assertNotIn(b"torrc.d", self.torrc.read_bytes())
            told = [line.rstrip(b" \\\r") for line in lines if line]
            self.assertEqual(told, [b"ContactInfo nobody", b"Nickname mine"])
            self.assertNotIn(b"\\\nNickname", self.torrc.read_bytes())

    def test_the_second_replaces_the_first(self) -> None:
        """And one undo takes back both; the record holds each change once."""
        self.make("a")
        self.make("b")
        self.assertIn(b"\n\n%include torrc.d/b\n", self.torrc.read_bytes())
        self.assertNotIn(b"torrc.d/a", self.torrc.read_bytes())
        self.assertEqual(len(self.record.changes()), 3)
        self.assertEqual(self.undo(), [])
        self.assertEqual(self.state(), self.before)

    def test_a_second_set_up_that_fails_leaves_the_first(self) -> None:
        """The host and the record are as the first left them."""
        self.make("a")
        between = self.state()
        self.assertRaises(RuntimeError, self.make, "b", RuntimeError())
        self.assertEqual(self.state(), between)
        self.undo()
        self.assertEqual(self.state(), self.before)

    def test_a_first_set_up_that_fails_leaves_nothing(self) -> None:
        """Nothing stays: no file, no directory, no record."""
        self.assertRaises(RuntimeError, self.make, "a", RuntimeError())
        self.assertEqual(self.state(), self.before)

    def test_what_a_person_wrote_stays(self) -> None:
        """A file that is there is not replaced, and what was made before it is taken back."""
        theirs = self.host / "torrc.d" / "ours.conf"
        theirs.parent.mkdir()
        theirs.write_text("Nickname mine\n")
        before = self.state()
        self.assertRaises(CannotChange, self.make, "a")
        self.assertEqual(self.state(), before)

    def test_what_a_person_changed_since(self) -> None:
        """It stays, and is said; lines that are gone are none to take out."""
        self.make("a")
        snippet = self.host / "torrc.d" / "ours.conf"
        snippet.write_text("Option mine\n")
        self.torrc.write_text("Nickname mine\n")
        self.assertEqual(self.undo(), [f"{snippet} was changed since, and is kept"])
        self.assertEqual(self.torrc.read_text(), "Nickname mine\n")
        self.assertEqual(snippet.read_text(), "Option mine\n")

    def test_a_directory_that_was_there(self) -> None:
        """It is not removed, though it is empty."""
        (self.host / "torrc.d").mkdir()
        self.make("a")
        self.undo()
        self.assertTrue((self.host / "torrc.d").is_dir())

    def test_a_link_stays_one_and_its_target_gets_the_lines(self) -> None:
        """It stays one; the file that it leads to gets the lines, and keeps its mode and owner."""
        target = self.host / "elsewhere"
        self.torrc.rename(target)
        target.chmod(0o604)
        os.chown(target, *OWNER)
        self.torrc.symlink_to(target)
        before = target.read_bytes()
        self.make("a")
        self.assertTrue(self.torrc.is_symlink())
        self.assertIn(b"%include", target.read_bytes())
        self.undo()
        status = target.stat()
        self.assertEqual((target.read_bytes(), status.st_mode & 0o777, status.st_uid, status.st_gid),
                         (before, 0o604, *OWNER))  # fmt: skip


class BrokenOffTests(Case):
    """Set-ups that are killed."""

    def kill_at(self, step: int, done: Callable[[], object]) -> bool:
        """Whether *done* was killed before its *step*th change of the host."""
        child = os.fork()
        if child == 0:
            count = 0

            def audit(event: str, _arguments: object) -> None:
                nonlocal count
                if event in _TOUCHES:
                    count += 1
                    if count == step:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(audit)
            try:
                done()
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    def fresh(self) -> None:
        shutil.rmtree(self.host)
        self.host.mkdir()
        self.torrc.write_bytes(self.before["torrc"] or b"")

    def each_step(self, prepare: Callable[[], object], done: Callable[[], object], then: Callable[[], object]) -> None:
        for step in range(1, 200):
            self.fresh()
            prepare()
            if not self.kill_at(step, done):
                self.assertGreater(step, 5)
                return
            then()
            self.assertEqual(self.undo(), [], step)
            self.assertEqual(self.state(), self.before, step)
        self.fail("it did not end")

    def test_a_first_set_up_killed_at_any_step_is_undone(self) -> None:
        """Killed at any step, it is taken back."""
        self.each_step(lambda: None, lambda: self.make("a"), lambda: None)

    def test_a_second_set_up_killed_at_any_step_is_undone_with_the_first(self) -> None:
        """The first is taken back with it."""
        self.each_step(lambda: self.make("a"), lambda: self.make("b"), lambda: None)

    def test_a_set_up_goes_on_from_one_that_was_killed(self) -> None:
        """It goes on from there."""

        def again() -> None:
            self.make("b")
            self.assertIn(b"%include torrc.d/b\n", self.torrc.read_bytes())

        self.each_step(lambda: self.make("a"), lambda: self.make("b"), again)

    def test_a_set_up_that_fails_after_a_killed_one_leaves_what_it_found(self) -> None:
        """What it finds is what it leaves."""
        self.each_step(
            lambda: self.make("a"),
            lambda: self.make("b"),
            lambda: self.assertRaises(RuntimeError, self.make, "c", RuntimeError()),
        )

    def test_a_set_up_killed_while_it_undoes_itself_is_undone(self) -> None:
        """A set-up that fails, and is killed while it takes back what it did."""
        self.each_step(
            lambda: self.make("a"),
            lambda: self.make("b", RuntimeError()),
            lambda: None,
        )

    def test_an_undo_killed_at_any_step_is_finished_by_the_next(self) -> None:
        """A second one finishes it."""
        self.each_step(lambda: self.make("a"), self.undo, lambda: None)


class RecordTests(Case):
    """The file, and who may write it."""

    def test_the_second_of_two_set_ups_at_once_is_refused(self) -> None:
        """The second is refused at once, and the first goes on."""
        with self.record.locked():
            error = self.assertRaises(CannotChange, self.make, "b")
            self.assertIn("another torknock setup", str(error))
            with self.record.making(self.wishes("a")):
                pass
        self.undo()
        self.assertEqual(self.state(), self.before)

    def test_the_record_is_its_owners_alone(self) -> None:
        """Who could open its directory could lock every set-up out."""
        self.make("a")
        directory = self.host / "lib"
        self.assertEqual(directory.stat().st_mode & 0o777, 0o700)
        self.assertEqual((directory / "setup.json").stat().st_mode & 0o777, 0o600)

    def test_a_record_that_is_damaged(self) -> None:
        """It is said, and nothing is changed."""
        path = self.host / "lib" / "setup.json"
        path.parent.mkdir(mode=0o700)
        deep = "[" * 100_000
        for text in ("{", deep, "[1]", '{"format": 2}', '{"changes": [{"kind": "Nonsense"}]}', '[{"kind": "File"}]'):
            path.write_text(text)
            self.assertRaises(CannotChange, self.make, "a")
            self.assertRaises(CannotChange, self.undo)
        path.unlink()
        path.parent.rmdir()
        self.assertEqual(self.state(), self.before)

    def test_what_0_1_0_has_recorded_is_undone(self) -> None:
        """What 0.1.0 wrote down is taken back: there `before` was a former text of its own."""
        snippet, ours = self.host / "torrc.d" / "ours.conf", "Option b\n"
        snippet.parent.mkdir()
        snippet.write_text(ours)
        with self.torrc.open("ab") as file:
            file.write(b"\n%include ours\n")
        path = self.host / "lib" / "setup.json"
        path.parent.mkdir(mode=0o755)
        path.write_text(json.dumps([
            {"kind": "File", "path": str(snippet), "text": ours, "mode": 416, "group": 0, "before": "Option a\n"},
            {"kind": "Block", "path": str(self.torrc), "text": "%include ours\n"},
        ]))  # fmt: skip
        readers = [change.reader for change in self.record.changes() if isinstance(change, (File, Block))]
        self.assertEqual(readers, [Reader.NONE, Reader.TOR])
        self.assertEqual(self.undo(), [])
        self.assertFalse(snippet.exists())
        self.assertEqual(self.torrc.read_bytes(), (self.before["torrc"] or b"") + b"\n")

    def test_lines_of_which_some_are_left_stay_and_are_reported(self) -> None:
        """They stay, and it is said."""
        block = Block(str(self.torrc), "one\ntwo\n")
        with self.record.locked(), self.record.making([block]):
            pass
        self.torrc.write_text("one\n2\n")
        self.assertEqual(self.undo(), [f"{self.torrc} has only some of the lines that were added to it; they are kept"])


class CommentedTests(Case):
    """Lines that an operator has made a comment of are not there."""

    def test_they_are_added_and_taken_out_beside_it(self) -> None:
        """A tor whose `%include` is a comment has no bridge, and would connect directly."""
        for before in (f"#{self.include('one')}Log notice stdout\n", f"Log notice stdout\n# {self.include('one')}"):
            self.torrc.write_text(before)
            self.make("one")
            self.assertEqual(self.torrc.read_text(), before + self.include("one"))
            self.assertEqual(self.undo(), [])
            self.assertEqual(self.torrc.read_text(), before)
