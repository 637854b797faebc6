"""The manual's transcripts: each command is run as it stands there, and prints what stands below it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.transcript import Step, matches, parse

TRANSCRIPTS = Path(__file__).parents[2] / "contrib" / "man" / "transcripts"

PROGRAM = """
import json, sys
from torknock.cli import torknock
keyring = {"keyring": sys.argv[1]}
control = {"control": sys.argv[1] + "-no-control"}
line = dict.fromkeys(("add", "card", "expire", "list", "note", "revoke", "show"), keyring)
isn = dict.fromkeys(("list", "which"), keyring)
torknock(sys.argv[2:], prog_name="torknock", default_map={
    "line": line, "isn": isn, "status": keyring | control, "doctor": keyring | control, "setup": {"bridge": control},
    "check": {"line": {"helper": sys.argv[1] + "-no-service"}},
})
"""
"""The command with a keyring, a control socket and a service of the test's, so that what is shown needs no options."""


class TranscriptTests(SynchronousTestCase):
    """What the man pages show."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def run_step(self, step: Step) -> tuple[str, int]:
        """What the command of *step* prints, and its exit status."""
        script = self.directory / "torknock"
        if not script.exists():
            words = [sys.executable, "-c", PROGRAM, str(self.directory / "keyring")]
            script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            script.chmod(0o755)
        environ = {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            ["sh", "-c", step.command], cwd=self.directory, env=environ, text=True, check=False, timeout=300,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.stdout, done.returncode

    def test_each_command_prints_what_the_manual_shows(self) -> None:
        """In the order in which it stands there, each transcript from an empty directory."""
        transcripts = sorted(TRANSCRIPTS.glob("*.txt"))
        self.assertGreater(len(transcripts), 4)
        for transcript in transcripts:
            for path in self.directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for step in parse(transcript.read_text("utf-8")):
                printed, status = self.run_step(step)
                told = f"{transcript.name}: $ {step.command}\n{printed}[{status}]"
                self.assertTrue(matches(step.output, printed), told)
                self.assertEqual(status, step.status, told)

    def test_the_pages_show_the_transcripts(self) -> None:
        """Of each transcript there is a page, on which it stands as it was run."""
        for transcript in TRANSCRIPTS.glob("*.txt"):
            page = TRANSCRIPTS.parent / "man1" / f"{transcript.stem}.1"
            read = subprocess.run(
                ["groff", "-man", "-Tutf8", "-rLL=500n", page],
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=True,
            ).stdout
            printed = [line.strip() for line in read.splitlines()]
            for line in transcript.read_text("utf-8").splitlines():
                self.assertIn(line.strip(), printed)


class ReaderTests(SynchronousTestCase):
    """`tests.support.transcript`."""

    def test_steps_have_a_command_an_output_and_a_status(self) -> None:
        """The status is 0 unless it is written."""
        told = parse("$ true\n$ false\nsaid\nmore\n[1]\n")
        self.assertEqual(told, [Step("true", "", 0), Step("false", "said\nmore\n", 1)])
        self.assertRaises(ValueError, parse, "said\n")

    @given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20))
    def test_what_varies_is_left_out_and_nothing_else(self, text: str) -> None:
        """Within a line, or whole lines."""
        self.assertTrue(matches("key=... pin\n", f"key={text} pin\n"))
        self.assertTrue(matches("first\n...\nlast\n", f"first\n{text}\n{text}\nlast\n"))
        self.assertTrue(matches(f"{text}\n", f"{text}\n"))
        for expected, printed in (
            ("key=... pin\n", f"key={text}\n pin\n"),
            ("first\n", f"first\n{text}\n"),
            (f"{text}a\n", f"{text}b\n"),
        ):
            self.assertFalse(matches(expected, printed), (expected, printed))
