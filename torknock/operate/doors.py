"""What root lets the gate service guard, and what has a filtered port silent from boot on, as changes to a host."""

from __future__ import annotations

import re
from pathlib import Path

from torknock.files import read_file
from torknock.gate.access import ACCESS, Entry, canonical, parse, silence
from torknock.gate.ruleset import Posture
from torknock.line import LineError, parse_address
from torknock.operate.changes import AT_MOST, Change, File, Unit

FILTERED = Path("/etc/torknock/filtered.nft")
"""The rules of every filtered door, for nft."""

FILTERED_UNIT = "torknock-filtered.service"
"""Loads them before the network is up."""

_HEAD = "# Which doors torknock gate may guard, and for which user; written by torknock setup bridge.\n"
_FILTERED_HEAD = (
    f"# Keeps the filtered ports of {ACCESS} silent; written by torknock setup bridge.\n"
    f"# Load it at every boot, before the network is up: nft -f {FILTERED}. {FILTERED_UNIT} does.\n"
)


def access_changes(door: Entry, group: str, unit: File | None) -> list[Change]:
    """What makes *door* the one that its user may guard, and keeps what the list has of others.

    The files are for root and *group*. *unit* is `FILTERED_UNIT`, None on a host without systemd. Raises `AccessDenied`
    if the list that is there cannot be used.
    """
    there = _read(ACCESS)
    listed = with_door(there or _HEAD, door)
    silent = silence(parse(listed, str(ACCESS)))
    changes: list[Change] = [File(str(ACCESS), listed, 0o640, group, replaces=there)]
    rules = _read(FILTERED)
    if silent or rules is not None:
        changes.append(File(str(FILTERED), _FILTERED_HEAD + silent, 0o640, group, replaces=rules))
    if silent and unit is not None:
        changes += [unit, Unit(FILTERED_UNIT)]
    return changes


def with_door(text: str, door: Entry) -> str:
    """The list *text* with *door* in the place of what a set-up has written for its user. Pure."""
    mark = f"\n# Written by torknock setup for the tor of {door.user}.\n"
    return re.sub(re.escape(mark) + r"\[\[door\]\]\n(?:\w+ = .*\n)*", "", text) + f"{mark}{door}"


def door_of(options: str, user: str) -> Entry | None:
    """The door that the lines of torrc in *options* hide, guarded for *user*; None if they hide none. Pure."""
    said = dict(line.partition(" ")[::2] for line in options.splitlines())
    listen = said.get("ServerTransportListenAddr", "").removeprefix("torknock ")
    words = dict(word.partition("=")[::2] for word in said.get("ServerTransportOptions", "").split())
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
