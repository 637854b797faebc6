"""Tests of `torknock.kernel.program`, with real programs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.reactor import reactor
from torknock.interfaces import GateFailed
from torknock.kernel import blocking_program
from torknock.kernel import program as room
from torknock.kernel.blocking_program import ProgramFailed, output_of
from torknock.kernel.program import command

_WITHOUT = """
import resource, sys
from twisted.internet import reactor, task
from twisted.internet.defer import ensureDeferred
from torknock.kernel.program import command

async def main(_reactor):
    resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])))
    try:
        print(await command(reactor, "echo", ["no limit"], package="coreutils"))
    except Exception as error:
        print(type(error).__name__, error)
    resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[3]), int(sys.argv[3])))
    print(await command(reactor, "echo", ["again"], package="coreutils"))

task.react(lambda reactor: ensureDeferred(main(reactor)))
"""


def _children() -> set[str]:
    """What the children of this process are called."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {Path(f"/proc/{pid}/comm").read_text().strip() for pid in listed}


class CommandTests(TestCase):
    """`command`."""

    timeout = 60

    def run_command(self, name: str, *arguments: str, stdin: bytes = b"") -> Deferred[str]:
        return Deferred.fromCoroutine(command(reactor, name, list(arguments), stdin, package="coreutils"))

    async def fails(self, name: str, *arguments: str) -> str:
        with self.assertRaises(GateFailed) as caught:
            await self.run_command(name, *arguments)
        return str(caught.exception)

    async def test_what_it_writes(self) -> None:
        """Its input is what is given."""
        self.assertEqual(await self.run_command("cat", stdin="a \u00fc\n".encode()), "a \u00fc\n")

    async def test_how_it_fails(self) -> None:
        """A status, a signal (as of the kernel that lacks memory), and a program that is not there."""
        self.assertEqual(await self.fails("sh", "-c", "echo no>&2; false"), "sh -c echo no>&2; false ended with 1: no")
        self.assertEqual(await self.fails("sh", "-c", "kill -9 $$"), "sh -c kill -9 $$ was ended by signal 9")
        missing = "the command no-such-program is missing; apt-get install coreutils"
        self.assertEqual(await self.fails("no-such-program"), missing)

    async def test_a_program_that_hangs_is_killed(self) -> None:
        """Also one that is stopped, and one whose output another process has still."""
        self.patch(room, "ENDS_WITHIN", 0.3)
        self.assertEqual(await self.fails("sleep", "61"), "sleep 61 has not ended within 0 s, and was killed")
        self.assertIn("was killed", await self.fails("sh", "-c", "kill -STOP $$"))
        self.assertIn("was killed", await self.fails("sh", "-c", "sleep 3 & exit 0"))
        while _children() & {"sleep", "sh"}:
            await deferLater(reactor, 0.05)

    def test_no_process_can_be_made(self) -> None:
        """Without descriptors, and as a user who has as many processes as they may: said, and well afterwards."""
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        for what, highest, said in (
            ("RLIMIT_NOFILE", files, "echo cannot be started: Too many open files"),
            ("RLIMIT_NPROC", hard, "echo cannot be started: Resource temporarily unavailable"),
        ):
            with self.subTest(limit=what):
                powerless = ["setpriv", "--reuid=64012", "--clear-groups"] if os.geteuid() == 0 else []
                ran = subprocess.run(
                    [*powerless, sys.executable, "-c", _WITHOUT, what, "1", str(highest)],
                    capture_output=True, text=True, timeout=50, cwd=Path(room.__file__).parents[2],
                )  # fmt: skip
                self.assertEqual(ran.stdout.split("\n")[:2], [f"GateFailed {said}", "again"], ran.stderr)


class BlockingTests(TestCase):
    """`torknock.kernel.blocking_program`, which runs its programs in a thread."""

    def test_a_program_that_hangs_is_killed(self) -> None:
        """One message says so."""
        self.patch(blocking_program, "ENDS_WITHIN", 0.3)
        with self.assertRaises(ProgramFailed) as caught:
            output_of("sleep", "61", package="coreutils")
        self.assertEqual(str(caught.exception), "sleep 61 has not ended within 0 s, and was killed")
        self.assertNotIn("sleep", _children())

    def test_what_it_writes_is_returned(self) -> None:
        """It reads what it is given."""
        self.assertEqual(output_of("cat", package="coreutils", stdin="text"), "text")

    def test_a_program_that_fails(self) -> None:
        """The first line that it says about it is told."""
        error = self.assertRaises(ProgramFailed, output_of, "cat", "/nonexistent", package="coreutils")
        self.assertRegex(str(error), "^cat /nonexistent ended with 1: .*cat: /nonexistent: No such file or directory$")
        error = self.assertRaises(ProgramFailed, output_of, "false", package="coreutils")
        self.assertEqual(str(error), "false ended with 1: nothing said")

    def test_a_program_that_is_missing(self) -> None:
        """With the package that has it; or it is there and cannot be run."""
        error = self.assertRaises(ProgramFailed, output_of, "torknock-no-such", package="some-package")
        self.assertEqual(str(error), "the command torknock-no-such is missing; apt-get install some-package")
        place = Path(self.mktemp()).absolute()
        place.mkdir()
        (place / "program").write_bytes(b"\x7fELF and nothing else")
        (place / "program").chmod(0o755)
        self.patch(blocking_program, "PROGRAMS", str(place))
        error = self.assertRaises(ProgramFailed, output_of, "program", package="some-package")
        self.assertEqual(str(error), "program cannot be run: Exec format error")
