"""What a set-up has changed, in a file: written before each change, so that an interrupted set-up can be undone.

A set-up that fails takes back what it changed and leaves the record as it was. One that was killed leaves its changes
in the record, whether it made them or not; the next set-up continues from there, and `undo` takes back all of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict

from torknock.kernel.files import directory_of_others, sync_directory
from torknock.kernel.lock import alone_in
from torknock.operate.setup.account_changes import Member, User
from torknock.operate.setup.changes import CannotChange, Change, Reader
from torknock.operate.setup.config_files import read, write
from torknock.operate.setup.doors import FILTERED_UNIT, ListedDoor
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.service_changes import Process, Unit
from torknock.operate.setup.site_directory import SiteDirectory
from torknock.operate.setup.site_include import SiteInclude

_FORMAT = 2

_KINDS: dict[str, Any] = {
    each.__name__: each for each in (File, Block, User, Member, Unit, Process, SiteDirectory, SiteInclude)
}
_KINDS["Door"] = ListedDoor
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Record:
    """What was changed, oldest first, in the file at *path* (0600, in a directory that is root's alone)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of all set-ups on this host. Raises `CannotChange` if another set-up holds it."""
        with ExitStack() as stack:
            with _reasons():
                os.fchmod(self._hold(stack), 0o700)  # who can open a directory can lock it
            stack.callback(self._leave)
            self._check_directories()
            yield

    def _check_directories(self) -> None:
        """Raise `CannotChange` if another user could replace the record, by which this one, root, changes files."""
        with _reasons():
            place = directory_of_others(self._path, (0, os.geteuid()))
        if place is not None:
            raise CannotChange(
                f"{place} can be written by others than root, who could replace {self._path}",
                f"chown -h root {place}; chmod go-w {place}",
            )

    def _hold(self, stack: ExitStack) -> int:
        """Lock the directory until *stack* ends; its file descriptor."""
        directory = self._path.parent
        while True:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                held = stack.enter_context(alone_in(directory, wait=False))
            except BlockingIOError:
                raise CannotChange("another torknock setup runs on this host", "wait until it ends") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(held), os.stat(directory)):
                    return held
            stack.close()  # the set-up that held it removed the directory

    def _leave(self) -> None:
        for left in self._path.parent.glob(".setup*.torknock"):
            left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is a record in it
            self._path.parent.rmdir()

    def changes(self) -> list[Change]:
        """The recorded changes, oldest first. Raises `CannotChange` if the file is damaged."""
        try:
            recorded = json.loads(read(str(self._path)) or "[]")
            if isinstance(recorded, list):
                return [_change(_of_the_first_format(each)) for each in recorded]
            return [_change(each) for each in recorded["changes"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CannotChange(f"{self._path} is damaged, and does not say what was changed", "move it away") from None

    @contextmanager
    def making(self, changes: list[Change]) -> Iterator[None]:
        """Make *changes*, and keep them when this ends; if anything is raised meanwhile, they are taken back.

        Raises `CannotChange`.
        """
        earlier = self.changes()
        made: list[Change] = []
        try:
            for change in changes:
                with _reasons():
                    change.inspect([each for each in [*earlier, *made] if _same(each, change)])
                    made.append(change)
                    self._write([*earlier, *made])
                    change.make()
                    self._write([*earlier, *made])
            yield
        except BaseException:
            with _reasons():
                for change in reversed(made):
                    change.undo()
                self._write(earlier)
            raise
        with _reasons():
            self._write(_merged([*earlier, *made]))

    def other_records(self) -> list[Record]:
        """The records of the other tors of this host that are set up."""
        paths = sorted(self._path.parent.glob("setup*.json"))
        return [Record(path) for path in paths if path != self._path]

    def undo(self) -> Iterator[str]:
        """Undo every change, newest first; yields what could not be undone.

        A change that another tor needs, too, passes to that tor's record. Raises `CannotChange`.
        """
        changes, heirs = self.changes(), self.other_records()
        while changes:
            with _reasons():
                if heirs and _is_shared(changes[-1]):
                    heirs[0].adopt(changes[-1])
                elif left := changes[-1].undo():
                    yield left
                changes.pop()
                self._write(changes)

    def adopt(self, change: Change) -> None:
        """Take over *change* from another record: it is undone with this one, last."""
        changes = self.changes()
        if not any(_same(each, change) for each in changes):
            self._write([change, *changes])

    def _write(self, changes: list[Change]) -> None:
        """Write *changes*, or remove the file if there are none."""
        if changes:
            recorded = [{"kind": _NAMES[type(each)], **asdict(each)} for each in changes]  # type: ignore[arg-type]  # attrs'
            write(str(self._path), json.dumps({"format": _FORMAT, "changes": recorded}, indent=1) + "\n", 0o600)
        else:
            self._path.unlink(missing_ok=True)
            sync_directory(self._path.parent)


def _is_shared(change: Change) -> bool:
    """Whether every tor of the host that is set up needs *change*."""
    if isinstance(change, (File, Unit)):
        return change.key[0].endswith(FILTERED_UNIT)
    return isinstance(change, User) or (isinstance(change, Block) and change.reader is Reader.APPARMOR)


def _change(recorded: dict[str, Any]) -> Change:
    change: Change = _KINDS[recorded.pop("kind")](**recorded)
    return change


def _of_the_first_format(recorded: dict[str, Any]) -> dict[str, Any]:
    """A change as version 0.1.0 recorded it: the readers follow from the paths.

    Its `before` was an earlier text of torknock.
    """
    path = recorded.get("path", "")
    if recorded["kind"] in ("File", "Block"):
        folders = {"/etc/tor/": "tor", "/etc/systemd/": "systemd", "/etc/apparmor.d/": "apparmor"}
        recorded["reader"] = next((reader for folder, reader in folders.items() if path.startswith(folder)), "")
    if recorded["kind"] == "Block" and not recorded["reader"]:
        recorded["reader"] = "tor"  # a torrc that is elsewhere
    if recorded["kind"] == "File":
        recorded["before"] = None
        recorded["made"] = ["/etc/tor/torrc.d"] if path.startswith("/etc/tor/torrc.d/") else []
    return recorded


def _same(one: Change, other: Change) -> bool:
    return type(one) is type(other) and one.key == other.key


def _merged(changes: list[Change]) -> list[Change]:
    """*changes*, with each that continues an earlier one merged into it."""
    merged: list[Change] = []
    for change in changes:
        for at, earlier in enumerate(merged):
            if _same(earlier, change):
                merged[at] = change.merged_with(earlier)
                break
        else:
            merged.append(change)
    return merged


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn an `OSError` into a `CannotChange`."""
    try:
        yield
    except OSError as error:
        remedy = "run it as root" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise CannotChange(f"cannot change {error.filename or 'a file'}: {error.strerror}", remedy) from error
