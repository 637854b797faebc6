"""What a set-up changes on a host: each change can say what it is, be made, and be taken back.

`record.Record` writes a change down before it is made, with what stood there before. So each `undo`
must also do for a change that was not made, or was taken back already. What a person has changed since stays, and is
said.
"""

from __future__ import annotations

import contextlib
import enum
import grp
import os
import pwd
import re
import shutil
import subprocess  # noqa: TID251  a command of root's, which has no reactor
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from attrs import define, evolve, field

from torknock.errors import TorknockError
from torknock.kernel.files import draft_of, read_file, replace_file
from torknock.operate.setup import daemons
from torknock.operate.setup.daemons import Started

AT_MOST = 1 << 20
"""Octets of a file of configuration, or of the record of what was changed."""

_ENDS_WITHIN = 90.0
"""Seconds that a program of this host has; systemd gives a service as long to stop."""


PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
"""Where programs of this host are looked for."""


class CannotChange(TorknockError):
    """A change was not made."""


class Reader(enum.StrEnum):
    """Who must read a file again once it is another one."""

    NONE = ""
    TOR = "tor"
    """The set-up tells it, when all files are as they should be."""
    SYSTEMD = "systemd"
    APPARMOR = "apparmor"


class Change(Protocol):
    """One thing that is different afterwards. Its attributes are what `Record` keeps."""

    @property
    def key(self) -> tuple[str, ...]:
        """What it changes: a later change with the same key continues this one."""

    def told(self) -> str:
        """What it is, for a person; further lines are indented."""

    def wanted(self) -> bool:
        """Whether it is not so already."""

    def look(self, earlier: Sequence[Any]) -> None:
        """Note what is there now; *earlier* are the recorded changes of its kind and key, oldest first.

        Raises `CannotChange` if what is there must stay.
        """

    def make(self) -> None:
        """Make it. Raises `CannotChange`."""

    def undo(self) -> str:
        """Give back what `look` has noted; what could not be given back, or ""."""

    def since(self, earlier: Any) -> Self:
        """The change that this one and *earlier* are together: its undo gives back what was there before both."""


@define
class File:
    """A file of ours, whole."""

    path: str
    text: str
    mode: int = 0o644
    group: int | str = 0
    """Its number, or its name where a user of that name is made first."""
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

    def told(self) -> str:
        """Its name and its text."""
        return f"write {self.path}:\n" + _indented(self.text)

    def wanted(self) -> bool:
        """Whether it is another one, or none."""
        return read(self.path) != self.text

    def look(self, earlier: Sequence[File]) -> None:
        """Refuse to replace a file that torknock has not written."""
        there = read(self.path)
        if there is not None and there not in {self.text, self.replaces, *(each.text for each in earlier)}:
            raise CannotChange(f"{self.path} is there already, and not as torknock wrote it", "move it away")
        self.before = there
        self.made = [str(each) for each in reversed(Path(self.path).parents) if not each.exists()]

    def make(self) -> None:
        """Write it."""
        write(self.path, self.text, self.mode, self.group)
        _read_again(self.reader, self.path)

    def undo(self) -> str:
        """Write what was there, or remove it."""
        there = read(self.path)
        draft_of(Path(self.path)).unlink(missing_ok=True)
        if there not in (None, self.text, self.before):
            return f"{self.path} was changed since, and stays"
        if self.before is None:
            Path(self.path).unlink(missing_ok=True)
        elif there != self.before:
            write(self.path, self.before, self.mode, self.group)
        for directory in reversed(self.made):
            with contextlib.suppress(OSError):  # something else is in it
                os.rmdir(directory)
        _read_again(self.reader, self.path)
        return ""

    def since(self, earlier: File) -> File:
        """Between them the file was ours."""
        return evolve(self, before=earlier.before, made=earlier.made + self.made)


@define
class Block:
    """Some lines at the end of a file that may have others."""

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

    def told(self) -> str:
        """The file and the lines."""
        return f"add to {self.path}:\n" + _indented(self.text)

    def wanted(self) -> bool:
        """Whether they are not there."""
        return _found(self.text, read(self.path) or "") is None

    def look(self, earlier: Sequence[Block]) -> None:
        """Find the earlier lines, and whether the last line of the file is a whole one."""
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
        _rewrite(self.path, before + self._added + after)
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
            _rewrite(self.path, before + self.former + kept + after)
        elif set(self.text.splitlines()) & set(there.splitlines()):
            return f"{self.path} has only some of the lines that were added to it; they stay"
        _read_again(self.reader, self.path)
        return ""

    def since(self, earlier: Block) -> Block:
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


@define
class User:
    """A system user, with a group of its name."""

    name: str

    @property
    def key(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

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

    def look(self, earlier: Sequence[User]) -> None:
        """There is none."""

    def make(self) -> None:
        """Make it: no home, no shell, no password."""
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", self.name)  # fmt: skip

    def undo(self) -> str:
        """Remove it, unless a process still runs as it."""
        if self.wanted():
            return ""
        try:
            run("userdel", self.name)
        except CannotChange as error:
            return f"the user {self.name} stays: {error}"
        return ""

    def since(self, earlier: User) -> User:
        """The same user."""
        return self


@define
class Member:
    """A user who is in a group."""

    user: str
    group: str

    @property
    def key(self) -> tuple[str, ...]:
        """Both names."""
        return (self.user, self.group)

    def told(self) -> str:
        """Both names."""
        return f"add {self.user} to the group {self.group}"

    def wanted(self) -> bool:
        """Whether the user is not in it."""
        try:
            return self.user not in grp.getgrnam(self.group).gr_mem
        except KeyError:
            return True

    def look(self, earlier: Sequence[Member]) -> None:
        """The user is not in it."""

    def make(self) -> None:
        """Add the user. It holds from the next login on."""
        run("usermod", "--append", "--groups", self.group, self.user)

    def undo(self) -> str:
        """Take the user out."""
        if not self.wanted():
            run("gpasswd", "--delete", self.user, self.group)
        return ""

    def since(self, earlier: Member) -> Member:
        """The same membership."""
        return self


@define
class Unit:
    """A unit of systemd's that is started now and at every boot: a service, or a socket with its service."""

    name: str
    before: bool = False
    """It was started at boot already."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def told(self) -> str:
        """Its name."""
        return f"enable {self.name}, and start it with what is installed now"

    def wanted(self) -> bool:
        """Whether it is not, or runs as it was before its file or torknock was replaced."""
        for verb in ("is-enabled", "is-active"):
            if run("systemctl", "--quiet", verb, self.name, check=False).status:
                return True
        asked = ("--property=NeedDaemonReload", "--property=MainPID", "--value", self.name, self._service)
        told = run("systemctl", "show", *asked, check=False).output.split()
        return "yes" in told or any(daemons.is_outdated(int(word)) for word in told if word.isdecimal())

    def look(self, earlier: Sequence[Unit]) -> None:
        """Whether it is enabled."""
        self.before = not run("systemctl", "--quiet", "is-enabled", self.name, check=False).status

    def make(self) -> None:
        """Have systemd read it, and start it again: a socket starts only while its service does not run."""
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", self.name)
        if self._service != self.name:
            run("systemctl", "stop", self._service)
        run("systemctl", "restart", self.name)

    def undo(self) -> str:
        """Stop it, with the service that it started; one that was there before is started again by its user."""
        if not self.before:
            run("systemctl", "disable", "--now", self.name, check=False)
        run("systemctl", "stop", self._service, check=False)
        return ""

    def since(self, earlier: Unit) -> Unit:
        """Enabled before both."""
        return evolve(self, before=earlier.before)

    @property
    def _service(self) -> str:
        return self.name.replace(".socket", ".service")


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

    @property
    def key(self) -> tuple[str, ...]:
        """Where it listens."""
        return (self.socket,)

    def told(self) -> str:
        """The command, which must be started at boot too."""
        command = " ".join(self.command)
        return f"start, as there is no systemd here (see to it that it is started at boot):\n    {command}"

    def wanted(self) -> bool:
        """Whether nothing listens, or a process with other arguments, or older than what is installed now."""
        holder = daemons.holder(self.socket)
        if holder is None or daemons.is_outdated(holder):
            return True
        program = next(at for at, word in enumerate(self.command) if at and not word.startswith("-"))
        return not daemons.has_arguments(holder, self.command[program + 1 :])

    def look(self, earlier: Sequence[Process]) -> None:
        """Nothing to give back: what listens is replaced."""

    def make(self) -> None:
        """Start it in the place of what listens, and wait until it does."""
        daemons.end_holder(self.socket)
        started = daemons.start(self.command, self.socket, self.user, self.group, Path(self.log))
        if started is None:
            raise CannotChange(f"the service that listens on {self.socket} does not start", f"see {self.log}")
        self.started = {"pid": started.pid, "since": started.since}

    def undo(self) -> str:
        """End it, if it is still the one."""
        if self.started:
            daemons.end(Started(**self.started))
        else:  # broken off before its id was written down
            daemons.end_holder(self.socket)
        return ""

    def since(self, earlier: Process) -> Process:
        """The earlier one was ended."""
        return self


KINDS: dict[str, Any] = {kind.__name__: kind for kind in (File, Block, User, Member, Unit, Process)}


@define
class Ended:
    """A program of this host that has ended."""

    status: int
    output: str


def run(*command: str, check: bool = True) -> Ended:
    """Run a program of this host. Raises `CannotChange` if it hangs, or fails and *check* says so."""
    path = shutil.which(command[0], path=PATH)
    if path is None:
        raise CannotChange(f"the command {command[0]} is missing")
    try:
        done = subprocess.run(  # noqa: S603  ours
            [path, *command[1:]], capture_output=True, text=True, check=False, timeout=_ENDS_WITHIN,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotChange(f"{' '.join(command)} has not ended within {_ENDS_WITHIN:.0f} s, and was killed") from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CannotChange(f"{' '.join(command)} ended with {done.returncode}: {said[-1] if said else 'nothing said'}")
    return Ended(done.returncode, done.stdout)


def read(path: str) -> str | None:
    """What is at *path*, with every octet kept (surrogateescape); None if there is no file.

    Raises `OSError`, also for what is no file of configuration (`read_file`).
    """
    try:
        return read_file(Path(path), AT_MOST).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def write(path: str, text: str, mode: int, group: int | str = 0, owner: int = 0) -> None:
    """Put *text*, as `read` gives it, at *path*: a whole file is there at any moment, also after a power cut."""
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    gid = group if isinstance(group, int) else grp.getgrnam(group).gr_gid
    replace_file(Path(path), text.encode("utf-8", "surrogateescape"), mode, (owner, gid))


def _rewrite(path: str, text: str) -> None:
    """Have *text* in the file at *path*, or where a link leads, with the owner and mode that it has."""
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        write(target, text, 0o644)
    else:
        write(target, text, status.st_mode & 0o7777, status.st_gid, status.st_uid)


def _read_again(reader: Reader, path: str) -> None:
    if reader is Reader.SYSTEMD:
        run("systemctl", "daemon-reload", check=False)
    elif reader is Reader.APPARMOR:
        local = Path(path)
        run("apparmor_parser", "-r", str(local.parent.parent / local.name), check=False)


def _indented(text: str) -> str:
    """*text* for a person's eyes, and for those who look over a shoulder: without the secrets of bridge lines."""
    shown = re.sub(r"\bkey=\S+", "key=...", text)
    return "".join(f"    {line}\n" for line in shown.splitlines()).rstrip("\n")
