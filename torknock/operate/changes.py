"""What a set-up changes on a host: each change can say what it is, be made, and be taken back.

Every change is written down before it is made, with what stood there before, so that one that was broken off can be
taken back too. What a person has changed since is let be, and said.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
import shutil
import subprocess  # noqa: TID251  a command of root's, which has no reactor
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from attrs import asdict, define, field

from torknock.errors import TorknockError
from torknock.operate import processes
from torknock.operate.processes import Started


class CannotChange(TorknockError):
    """A change was not made."""


class Change(Protocol):
    """One thing that is other afterwards. Its attributes are what `Record` keeps."""

    def told(self) -> str:
        """What it is, for a person; further lines are indented."""

    def wanted(self) -> bool:
        """Whether it is not so already."""

    def make(self) -> None:
        """See to it. Raises `CannotChange`."""

    def undo(self) -> str:
        """Take it back; what could not be taken back, or ""."""


@define
class File:
    """A file of ours, whole."""

    path: str
    text: str
    mode: int = 0o644
    group: int = 0
    before: str | None = None
    """What a former set-up of ours wrote there."""

    def told(self) -> str:
        """Its name and its text."""
        return f"write {self.path}:\n" + _indented(self.text)

    def wanted(self) -> bool:
        """Whether it is another one, or none."""
        return _read(self.path) != self.text

    def make(self) -> None:
        """Write it, unless somebody else's stands there."""
        there = _read(self.path)
        if there not in (None, self.text, self.before):
            raise CannotChange(f"{self.path} is there already, and not as torknock wrote it; move it away")
        _write(self.path, self.text, self.mode, self.group)

    def undo(self) -> str:
        """Remove it."""
        there = _read(self.path)
        if there not in (None, self.text):
            return f"{self.path} was changed since, and stays"
        Path(self.path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not empty, or not ours
            Path(self.path).parent.rmdir()
        return ""


@define
class Block:
    """Some lines at the end of a file that may have others."""

    path: str
    text: str

    def told(self) -> str:
        """The file and the lines."""
        return f"add to {self.path}:\n" + _indented(self.text)

    def wanted(self) -> bool:
        """Whether they are not there."""
        return self.text not in (_read(self.path) or "")

    def make(self) -> None:
        """Append them; the file keeps its owner and mode."""
        there = _read(self.path) or ""
        status = os.stat(self.path) if os.path.exists(self.path) else None
        text = there + ("\n" if there and not there.endswith("\n") else "") + self.text
        if status is None:
            _write(self.path, text, 0o644)
        else:
            _write(self.path, text, status.st_mode & 0o7777, status.st_gid, status.st_uid)

    def undo(self) -> str:
        """Take exactly those lines out."""
        there = _read(self.path)
        if there is None:
            return ""
        if self.text not in there:
            return f"{self.path} has no longer the lines that were added to it; look whether something of them is left"
        status = os.stat(self.path)
        _write(self.path, there.replace(self.text, "", 1), status.st_mode & 0o7777, status.st_gid, status.st_uid)
        return ""


@define
class User:
    """A system user, with a group of its name."""

    name: str

    def told(self) -> str:
        """Its name."""
        return f"make the system user and group {self.name}"

    def wanted(self) -> bool:
        """Whether there is none."""
        try:
            pwd.getpwnam(self.name)
        except KeyError:
            return True
        return False

    def make(self) -> None:
        """Make it: no home, no shell, no password."""
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", self.name)  # fmt: skip

    def undo(self) -> str:
        """Remove it, unless a process is still its."""
        if self.wanted():
            return ""
        try:
            run("userdel", self.name)
        except CannotChange as error:
            return f"the user {self.name} stays: {error}"
        return ""


@define
class Member:
    """A user who is in a group."""

    user: str
    group: str

    def told(self) -> str:
        """Both names."""
        return f"add {self.user} to the group {self.group}"

    def wanted(self) -> bool:
        """Whether he is not."""
        try:
            return self.user not in grp.getgrnam(self.group).gr_mem
        except KeyError:
            return True

    def make(self) -> None:
        """Add him. It holds from his next login on."""
        run("usermod", "--append", "--groups", self.group, self.user)

    def undo(self) -> str:
        """Take him out."""
        if not self.wanted():
            run("gpasswd", "--delete", self.user, self.group)
        return ""


@define
class Unit:
    """A unit of systemd's that is started now and at every boot."""

    name: str

    def told(self) -> str:
        """Its name."""
        return f"enable and start {self.name}"

    def wanted(self) -> bool:
        """Whether it is not."""
        return any(run("systemctl", "--quiet", verb, self.name, check=False) for verb in ("is-enabled", "is-active"))

    def make(self) -> None:
        """Have it."""
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "--now", self.name)

    def undo(self) -> str:
        """Stop it, with the service that it started."""
        run("systemctl", "disable", "--now", self.name, self.name.replace(".socket", ".service"), check=False)
        return ""


@define
class Process:
    """A service that is started here and now, where there is no systemd."""

    command: list[str]
    user: str
    socket: str
    group: int
    """Whose members may open the socket; 0 for everybody."""
    log: str
    started: dict[str, int] = field(factory=dict)

    def told(self) -> str:
        """The command: nobody starts it at boot."""
        command = " ".join(self.command)
        return f"start, as there is no systemd here (see to it that it is started at boot):\n    {command}"

    def wanted(self) -> bool:
        """Whether nobody listens."""
        return not processes.answers(self.socket)

    def make(self) -> None:
        """Start it, and wait until it listens."""
        started = processes.start(self.command, self.socket, self.user, self.group, Path(self.log))
        if started is None:
            raise CannotChange(f"the service that listens on {self.socket} does not start; see {self.log}")
        self.started = {"pid": started.pid, "since": started.since}

    def undo(self) -> str:
        """End it, if it is still the one."""
        if self.started:
            processes.end(Started(**self.started))
        return ""


KINDS: dict[str, Any] = {kind.__name__: kind for kind in (File, Block, User, Member, Unit, Process)}


class Record:
    """What was changed, oldest first, in the file at *path* (0600)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def changes(self) -> list[Change]:
        """All of it. Raises `CannotChange` if the file is damaged."""
        try:
            return [KINDS[each.pop("kind")](**each) for each in json.loads(_read(str(self._path)) or "[]")]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CannotChange(f"{self._path} is damaged, and does not say what was changed; move it away") from None

    def write(self, changes: list[Change]) -> None:
        """Keep *changes*; no file is left for none."""
        if changes:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            told = [{"kind": type(each).__name__, **asdict(each)} for each in changes]  # type: ignore[arg-type]  # attrs'
            _write(str(self._path), json.dumps(told, indent=1) + "\n", 0o600)
        else:
            self._path.unlink(missing_ok=True)

    def make(self, changes: list[Change]) -> None:
        """Make *changes*, each written down before."""
        for change in changes:
            done = [each for each in self.changes() if not _same(each, change)]
            self.write([*done, change])
            try:
                change.make()
            except OSError as error:
                raise CannotChange(f"{error.filename or 'a file'}: {error.strerror}; be root") from error
            self.write([*done, change])

    def undo(self) -> Iterator[str]:
        """Take everything back, newest first; what could not be is told."""
        changes = self.changes()
        while changes:
            try:
                if told := changes[-1].undo():
                    yield told
            except OSError as error:
                raise CannotChange(f"{error.filename or 'a file'}: {error.strerror}; be root") from error
            changes.pop()
            self.write(changes)


def run(*command: str, check: bool = True) -> int:
    """Run a program of this host; its exit status. Raises `CannotChange` if it fails and *check* says so."""
    path = shutil.which(command[0], path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise CannotChange(f"the command {command[0]} is missing")
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)  # noqa: S603  ours
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CannotChange(f"{' '.join(command)} ended with {done.returncode}: {said[-1] if said else 'nothing said'}")
    return done.returncode


def _same(one: Change, other: Change) -> bool:
    """Whether *other* takes the place of *one*."""
    if isinstance(one, File) and isinstance(other, File):
        return one.path == other.path
    return type(one) is type(other) and one.told() == other.told()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise CannotChange(f"{path} is no text; look at it") from None


def _write(path: str, text: str, mode: int, group: int = 0, owner: int = 0) -> None:
    """Put *text* at *path*, such that a whole file is there at any moment."""
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=Path(path).parent, prefix=".torknock-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            os.fchown(descriptor, owner, group)
            file.write(text)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _indented(text: str) -> str:
    """*text* for a person's eyes, and for those who look over a shoulder: without the secrets of bridge lines."""
    shown = re.sub(r"\bkey=\S+", "key=...", text)
    return "".join(f"    {line}\n" for line in shown.splitlines()).rstrip("\n")
