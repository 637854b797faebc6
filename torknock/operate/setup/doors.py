"""Changes to the access list, and to the rules that keep filtered ports silent from boot on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attrs import define, evolve

from torknock.kernel.files import draft_of, read_file
from torknock.operate.setup.changes import Change
from torknock.operate.setup.config_files import AT_MOST, write
from torknock.operate.setup.file_changes import File
from torknock.operate.setup.service_changes import Unit
from torknock.protocol.bridge_line import LineError, parse_address
from torknock.protocol.door import Posture
from torknock.service.access import ACCESS, AccessDenied, Entry, canonical, check_directories, parse, silence

FILTERED = Path("/etc/torknock/filtered.nft")
"""The rules of every filtered door, for nft."""

FILTERED_UNIT = "torknock-filtered.service"
"""Loads them before the network is up."""

_HEAD = "# Which doors torknock gate may guard, and for which user; written by torknock setup bridge.\n"
_FILTERED_HEAD = (
    f"# Keeps the filtered ports of {ACCESS} silent; written by torknock setup bridge.\n"
    f"# Load it at every boot, before the network is up: nft -f {FILTERED}. {FILTERED_UNIT} does.\n"
)


@define
class ListedDoor:
    """The door of one tor in the access list, with the rules that keep every filtered door silent."""

    address: str
    port: int
    posture: str
    user: str
    owner: str
    """The name of the tor in the list."""
    group: str
    """Whose members may read the files, besides root."""
    former: str = ""
    """The text that the list had for this tor before."""

    @property
    def key(self) -> tuple[str, ...]:
        """The list, and the tor: each tor has one door."""
        return (str(ACCESS), self.owner)

    def describe(self) -> str:
        """The door as it will be listed."""
        lines = "".join(f"    {line}\n" for line in self._text.strip().splitlines())
        return f"write to {ACCESS}, and the rules of filtered doors to {FILTERED}:\n{lines}".rstrip("\n")

    def is_needed(self) -> bool:
        """Whether the list has another door for this tor, or none, or the rules are of another list."""
        there = _read(ACCESS) or ""
        rules = _read(FILTERED)
        return self._text not in there or (rules or "") != _rules(there)

    def inspect(self, earlier: Sequence[ListedDoor]) -> None:
        """Note what the list has for this tor. Raises `AccessDenied` if it cannot be used with this door."""
        with suppress(FileNotFoundError):  # `make` makes the directory
            check_directories(ACCESS, (0, os.geteuid()))
        there = _read(ACCESS) or _HEAD
        self.former = _of(there, self.owner)
        others = parse(there.replace(self.former, "", 1), str(ACCESS))
        if taken := next((other for other in others if other.port == self.port), None):
            raise AccessDenied(
                f"{ACCESS} has port {self.port} for {taken.user} already",
                "name another port with --port, or take it out",
            )

    def make(self) -> None:
        """List it, in place of the tor's former door."""
        there = _read(ACCESS) or _HEAD
        self._write(there.replace(_of(there, self.owner), "", 1) + self._text)

    def undo(self) -> str:
        """Restore the tor's former door; other doors stay. An empty list is removed."""
        there = _read(ACCESS)
        if there is None:
            return ""
        try:
            self._write(there.replace(_of(there, self.owner), "", 1) + self.former)
        except AccessDenied as error:
            return f"the door of {self.owner} stays listed: {error}"
        return ""

    def merged_with(self, earlier: ListedDoor) -> ListedDoor:
        """What the list had before both."""
        return evolve(self, former=earlier.former)

    @property
    def _text(self) -> str:
        return _mark(self.owner) + str(Entry(self.address, self.port, Posture(self.posture), self.user))

    def _write(self, listed: str) -> None:
        if listed == _HEAD:
            for path in (ACCESS, FILTERED):
                draft_of(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            with suppress(OSError):  # something else is in it
                ACCESS.parent.rmdir()
            return
        rules = _rules(listed)
        write(str(ACCESS), listed, 0o640, self.group)
        if rules:
            write(str(FILTERED), rules, 0o640, self.group)
        else:
            FILTERED.unlink(missing_ok=True)


def access_changes(door: Entry, owner: str, group: str, unit: File | None) -> list[Change]:
    """What makes *door* the one that the tor *owner* may have guarded, and keeps what the list has of others.

    The files are for root and *group*. *unit* is `FILTERED_UNIT`, None on a host without systemd.
    """
    changes: list[Change] = [ListedDoor(door.address, door.port, door.posture.value, door.user, owner, group)]
    if door.posture is Posture.FILTERED and unit is not None:
        changes += [unit, Unit(FILTERED_UNIT)]
    return changes


def _mark(owner: str) -> str:
    return f"\n# Written by torknock setup for the tor of {owner}.\n"


def _of(text: str, owner: str) -> str:
    """What the list *text* has for the tor *owner*; "" if nothing."""
    found = re.search(re.escape(_mark(owner)) + r"\[\[door\]\]\n(?:\w+ = .*\n)*", text)
    return "" if found is None else found[0]


def _rules(listed: str) -> str:
    """What the file of rules has for the list *listed*; "" if there is to be none."""
    silent = silence(parse(listed, str(ACCESS)))
    return _FILTERED_HEAD + silent if silent else ""


def door_of(options: str, user: str) -> Entry | None:
    """The door that the lines of torrc in *options* hide, guarded for *user*; None if they hide none. Pure."""
    by_name = dict(line.partition(" ")[::2] for line in options.splitlines())
    listen = by_name.get("ServerTransportListenAddr", "").removeprefix("torknock ")
    words = dict(word.partition("=")[::2] for word in by_name.get("ServerTransportOptions", "").split())
    try:
        address, port = parse_address(listen)
        return Entry(canonical(str(address)), port, Posture(words.get("posture", "closed")), user)
    except (LineError, ValueError):
        return None


def _read(path: Path) -> str | None:
    try:
        return read_file(path, AT_MOST).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
