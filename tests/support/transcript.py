"""Transcripts: commands and what they print, as the manual shows them, so that a test can run exactly that text.

A line that begins with `$ ` is a command; the lines below it are its output, stdout and stderr as they come. `[1]`
below them is its exit status, if that is not 0. Within a line `...` stands for any text, and alone for any lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it prints."""

    command: str
    output: str
    status: int


def parse(text: str) -> list[Step]:
    """The steps of the transcript *text*. Raises `ValueError` if it begins with something else than a command."""
    steps = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        status = 0
        if found := re.search(r"^\[(\d+)\]\n\Z", output, re.MULTILINE):
            status, output = int(found[1]), output[: found.start()]
        steps.append(Step(command, output, status))
    if not text.startswith("$ "):
        raise ValueError(f"no command: {text.partition(chr(10))[0]}")
    return steps


def matches(expected: str, printed: str) -> bool:
    """Whether *printed* is what *expected* says."""
    lines = [
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(re.escape("..."), ".*?") + r"\n"
        for line in expected.splitlines()
    ]
    return re.fullmatch("".join(lines), printed) is not None
