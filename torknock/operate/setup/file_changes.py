"""Changes to files: a whole file of torknock's, or lines of torknock's in a file of the host."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from attrs import define, evolve, field

from torknock.kernel.files import draft_of
from torknock.operate.setup.changes import CannotChange, Reader
from torknock.operate.setup.config_files import read, rewrite, write
from torknock.operate.setup.programs import run
from torknock.operate.site_lines import without_path


@define
class File:
    """A whole file that torknock writes."""

    path: str
    text: str
    mode: int = 0o644
    group: int | str | None = None
    """Its number, or its name where a user of that name is made first; None for that of this process."""
    reader: Reader = field(default=Reader.NONE, converter=Reader)
    replaces: str | None = None
    """A text that may stand there, because torknock wrote it, though the record does not know."""
    before: str | None = None
    """What stood there; None if there was no file."""
    made: list[str] = field(factory=list)
    """The directories that were made for it, outermost first."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its path."""
        return (self.path,)

    def describe(self) -> str:
        """Its name and its text."""
        return f"write {self.path}:\n" + _indented(self.text)

    def is_needed(self) -> bool:
        """Whether the file is missing or has another text."""
        return read(self.path) != self.text

    def inspect(self, earlier: Sequence[File]) -> None:
        """Refuse to replace a file that torknock has not written."""
        there = read(self.path)
        if there is not None and there not in {self.text, self.replaces, *(each.text for each in earlier)}:
            raise CannotChange(f"{self.path} exists already, and torknock did not write it", "move it away")
        self.before = there
        self.made = [str(each) for each in reversed(Path(self.path).parents) if not each.exists()]

    def make(self) -> None:
        """Write it."""
        write(self.path, self.text, self.mode, self.group)
        _read_again(self.reader, self.path)

    def undo(self) -> str:
        """Restore the former text, or remove the file."""
        there = read(self.path)
        draft_of(Path(self.path)).unlink(missing_ok=True)
        if there not in (None, self.text, self.before):
            return f"{self.path} was changed since, and is kept"
        if self.before is None:
            Path(self.path).unlink(missing_ok=True)
        elif there != self.before:
            write(self.path, self.before, self.mode, self.group)
        for directory in reversed(self.made):
            with contextlib.suppress(OSError):  # something else is in it
                os.rmdir(directory)
        _read_again(self.reader, self.path)
        return ""

    def merged_with(self, earlier: File) -> File:
        """What was there before the earlier one."""
        return evolve(self, before=earlier.before, made=earlier.made + self.made)


@define
class Block:
    """Lines at the end of a file that the host owns."""

    path: str
    text: str
    reader: Reader = field(default=Reader.NONE, converter=Reader)
    lead: str = ""
    """What had to be added before them, so that they begin a line."""
    former: str = ""
    """The lines of ours that they replace."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its file, in which there is one such block."""
        return (self.path,)

    def describe(self) -> str:
        """The file and the lines."""
        return f"add to {self.path}:\n" + _indented(self.text)

    def is_needed(self) -> bool:
        """Whether the file lacks them."""
        return _found(self.text, read(self.path) or "") is None

    def inspect(self, earlier: Sequence[Block]) -> None:
        """Find the earlier lines, and whether the file ends in the middle of a line."""
        there = read(self.path) or ""
        for each in reversed(earlier):
            if _found(each._added, there) is not None:
                self.former, self.lead = each._added, each.lead
                return
        self.lead = "" if not there or there.endswith("\n") else "\n"
        if re.search(r"\\\s*\Z", there):
            self.lead += "\n"  # a line that ends with a backslash goes on: end it (tor's manual)

    def make(self) -> None:
        """Add them, in the place of the earlier ones; the file keeps its owner and mode."""
        there = read(self.path) or ""
        at = _found(self.former, there) if self.former else None
        before, after = (there, "") if at is None else (there[:at], there[at + len(self.former) :])
        rewrite(self.path, before + self._added + after)
        _read_again(self.reader, self.path)

    def undo(self) -> str:
        """Take out exactly what was added."""
        there = read(self.path)
        if there is None:
            return ""
        draft_of(Path(os.path.realpath(self.path))).unlink(missing_ok=True)
        added = self._added if _found(self._added, there) is not None else self.text
        if (at := _found(added, there)) is not None:
            before, after = there[:at], there[at + len(added) :]
            kept = self.lead if after and added == self._added and not self.former else ""  # else two lines become one
            rewrite(self.path, before + self.former + kept + after)
        elif set(self.text.splitlines()) & set(there.splitlines()):
            return f"{self.path} has only some of the lines that were added to it; they are kept"
        _read_again(self.reader, self.path)
        return ""

    def merged_with(self, earlier: Block) -> Block:
        """What was there before the earlier one, unless a person has taken that out."""
        return evolve(self, former=earlier.former if self.former else "")

    @property
    def _added(self) -> str:
        return self.lead + self.text


def _found(lines: str, there: str) -> int | None:
    """Where *lines* are in *there*: at the beginning of a line, so that they are no comment; None if nowhere."""
    if lines.startswith("\n"):
        at = there.find(lines)
    else:
        at = 0 if there.startswith(lines) else there.find(f"\n{lines}") + 1 or -1
    return at if at >= 0 else None


def _read_again(reader: Reader, path: str) -> None:
    if reader is Reader.SYSTEMD:
        run("systemctl", "daemon-reload", check=False)
    elif reader is Reader.APPARMOR:
        local = Path(path)
        run("apparmor_parser", "-r", str(local.parent.parent / local.name), check=False)


def _indented(text: str) -> str:
    """*text* indented for a terminal, without the secrets of bridge lines and sites: other people may see it."""
    shown = without_path(re.sub(r"\bkey=\S+", "key=...", text))
    return "".join(f"    {line}\n" for line in shown.splitlines()).rstrip("\n")
