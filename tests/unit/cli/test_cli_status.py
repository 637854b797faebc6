"""Tests of `torknock status`, as a process of its own beside a bridge that tells its status."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.keeper import QuietKeeper
from tests.support.reactor import reactor
from torknock.bridge.counts import Counts, Identity, Monitor
from torknock.bridge.publish import Publication

LIMIT = 60.0


class StatusCommandTests(TestCase):
    """What an operator types."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.counts = Counts(reactor)
        monitor = Monitor(reactor, Identity("1.0", "closed", 443), self.counts, QuietKeeper())
        self.publication = Publication(reactor, monitor, self.directory)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.publication.stop()))
        self.command = [sys.executable, "-m", "torknock", "status", "--keyring", str(self.directory)]
        self.command += ["--control", str(self.directory / "control")]

    def run_command(self, *options: str) -> Deferred[subprocess.CompletedProcess[str]]:
        """The command, to its end."""
        command = [*self.command, *options]
        return deferToThread(subprocess.run, command, capture_output=True, text=True, timeout=LIMIT)

    async def test_json_is_one_object_and_nothing_else(self) -> None:
        """One object and nothing else."""
        await self.publication.start()
        self.counts.opened("alice", lambda: None)
        done = await self.run_command("--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        told = json.loads(done.stdout)
        self.assertEqual((told["in_use"][0]["name"], told["refused"]), ("alice", 7))
        self.assertEqual(list(told["tor"]), ["reason"])

    async def test_once_where_no_terminal_is(self) -> None:
        """A table, and no escape sequence."""
        await self.publication.start()
        done = await self.run_command()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("443, closed", done.stdout)
        self.assertNotIn("\x1b", done.stdout)

    async def test_a_missing_bridge_is_one_line(self) -> None:
        """One line that says so, and what to do."""
        for option in ("--json", "--once"):
            done = await self.run_command(option)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
            self.assertTrue(done.stderr.startswith("torknock: no bridge tells its status in "), done.stderr)

    def watch_terminal(self, then: Callable[[subprocess.Popen[bytes]], object]) -> tuple[int, bytes]:
        """Exit status and all that is written to a terminal; the second picture is followed by *then*."""
        ours, theirs = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        command = ["env", "--default-signal=INT", *self.command]  # a shell's background jobs ignore it
        self.ours = ours
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
        ) as process:
            os.close(theirs)
            written = b""
            deadline = time.monotonic() + LIMIT
            done = False
            try:
                while time.monotonic() < deadline:
                    try:
                        written += os.read(ours, 65_536)
                    except OSError:  # EIO: the command has ended
                        break
                    if written.count(b"443, closed") > 1 and not done:
                        done = True
                        then(process)
            finally:
                os.close(ours)
                process.kill()
        return process.returncode, written

    async def test_a_terminal_is_drawn_again_until_ctrl_c(self) -> None:
        """Again and again until Ctrl-C, which is a good end; the cursor is there again."""
        await self.publication.start()
        status, written = await deferToThread(self.watch_terminal, lambda process: process.send_signal(signal.SIGINT))
        self.assertEqual(status, 0, written)
        self.assertIn(b"\x1b[?25l", written)
        self.assertGreater(written.rindex(b"\x1b[?25h"), written.rindex(b"\x1b[?25l"))
        self.assertNotIn(b"Traceback", written)

    async def test_the_key_q_ends_the_live_view(self) -> None:
        """As it ends less and top; the terminal echoes again, and each line stands on it once."""
        await self.publication.start()

        def quit(process: subprocess.Popen[bytes]) -> None:
            self.before = termios.tcgetattr(self.ours)
            os.write(self.ours, b"q")

        status, written = await deferToThread(self.watch_terminal, quit)
        self.assertEqual(status, 0, written)
        self.assertFalse(self.before[3] & termios.ECHO)
        left = written.rpartition(b"\x1b[?1049l")
        self.assertTrue(left[1], written)
        self.assertEqual(left[2].count(b"443, closed"), 1)

    async def test_the_bridge_ends_while_it_is_watched(self) -> None:
        """The view ends with one line, and status 1."""
        await self.publication.start()

        from_threads: Any = reactor

        def stop() -> None:
            self.stopping = Deferred.fromCoroutine(self.publication.stop())

        status, written = await deferToThread(self.watch_terminal, lambda _: from_threads.callFromThread(stop))
        self.assertEqual(status, 1, written)
        self.assertIn(b"torknock: no bridge tells its status in ", written)
        self.assertNotIn(b"Traceback", written)
