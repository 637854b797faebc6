"""What people read of the command: help, man pages, completion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from contrib.man.generate import COMPLETION, MAN, completions, man_pages
from torknock.cli import torknock

ROOT = Path(__file__).parents[2]
TORKNOCK = Path(sys.executable).with_name("torknock")


class ManualTests(SynchronousTestCase):
    """Help and man pages."""

    def test_the_pages_say_what_the_command_says(self) -> None:
        """They are generated: `python -m contrib.man.generate` after a change."""
        there = {path.name: path.read_text("utf-8") for path in MAN.glob("*.1")}
        self.assertEqual(there, man_pages())

    def test_every_verb_shows_an_example(self) -> None:
        """In `--help`, and so on its page."""
        for name, page in man_pages().items():
            self.assertRegex(page, r"\n\.SH (EXAMPLE|IN TORRC)\n", name)

    def test_help_is_there_for_every_verb(self) -> None:
        """None fails to be imported, and none runs anything for it."""
        for name in man_pages():
            words = name.removesuffix(".1").split("-")[1:]
            asked = CliRunner().invoke(torknock, [*words, "--help"])
            self.assertEqual((asked.exit_code, "Usage:" in asked.output), (0, True), name)

    def test_man_reads_the_pages_without_a_complaint(self) -> None:
        """groff, which `man` is made of, warns of what it does not understand."""
        for path in MAN.glob("*.1"):
            checked = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", path], capture_output=True, check=True)
            self.assertEqual(checked.stderr, b"", path.name)


class CompletionTests(SynchronousTestCase):
    """What the shells are told."""

    def test_the_scripts_are_those_of_the_command(self) -> None:
        """Generated with the pages."""
        there = {path.name: path.read_text("utf-8") for path in COMPLETION.iterdir() if path.name != "README.md"}
        self.assertEqual(there, completions())

    def complete(self, *words: str) -> list[str]:
        """What a bash offers for the last of *words*."""
        script = COMPLETION / "torknock.bash"
        commands = (
            f'. {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _torknock_completion torknock; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environ = {"PATH": f"{TORKNOCK.parent}:{os.environ['PATH']}"}
        told = subprocess.run(
            ["bash", "-c", commands, "bash", *words], capture_output=True, text=True, check=True, env=environ
        )
        return told.stdout.split()

    def test_bash_completes_verbs_and_options(self) -> None:
        """Through the script as it is installed."""
        self.assertEqual(self.complete("torknock", "li"), ["line"])
        self.assertEqual(self.complete("torknock", "line", "re"), ["revoke"])
        self.assertIn("--expires", self.complete("torknock", "line", "add", "--ex"))


class FishTests(SynchronousTestCase):
    """What fish is told, on a host that is reached over ssh: no desktop session has set XDG_DATA_DIRS there."""

    skip = None if shutil.which("fish") else "fish is not installed; contrib/set-up installs it"

    def fish(self, commands: str) -> list[str]:
        """The lines that a fish of nobody's writes."""
        home = Path(self.mktemp())
        home.mkdir(parents=True)
        environ = {"PATH": f"{TORKNOCK.parent}:{os.environ['PATH']}", "HOME": str(home.absolute())}
        environ |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        done = subprocess.run(["fish", "-c", commands], capture_output=True, text=True, check=True, env=environ)
        return done.stdout.splitlines()

    def test_it_completes(self) -> None:
        """Verbs and options, each with the whole sentence that says what it is for."""
        script = COMPLETION / "torknock.fish"
        told = self.fish(f"source {script}; complete -C 'torknock li'; complete -C 'torknock line add --svg'")
        self.assertEqual(told, [
            "line\tIssue bridge lines, list them, revoke them.", "--svg\tWrite the QR code to FILE, as SVG.",
        ])  # fmt: skip

    def test_it_looks_where_the_script_is_installed(self) -> None:
        """It reads /usr/local/share only where XDG_DATA_DIRS says so."""
        [installed] = re.findall(r"-t (\S+) contrib/completion/torknock.fish", (ROOT / "contrib/install").read_text())
        self.assertIn(installed, self.fish("string join \\n $fish_complete_path"))
