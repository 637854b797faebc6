"""What tor's log says of the transport, without what no stranger may read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from torknock.interfaces import GateFailed
from torknock.kernel.files import read_end
from torknock.kernel.interfaces import IReactor
from torknock.kernel.places import SYSTEMD_RUNS
from torknock.kernel.program import command
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.redact import redact
from torknock.tor.reasons import is_advice

_TAIL = 256 * 1024
"""Octets of a log that are read, from its end."""

_ANEW = re.compile(r"\] Tor \S+ (?:opening (?:new )?log file|running on )|Registered server transport 'torknock'")
"""What stands before this is about a transport that has ended."""

_COMPLAINT = re.compile(r"\[(?:warn|err)\].*(?:torknock|managed proxy|managed transport)", re.IGNORECASE)
_OPEN_AGAIN = re.compile(r"port open again")
_CLOSED = re.compile(r"port (?:is )?closed|the tokens run out within")
_RELOADED = re.compile(r"the gate was lost|gate table missing or changed|rules missing or changed by another program")
_FULL, _ROOM_AGAIN = re.compile(r"connections turned away"), re.compile(r"connections accepted again")
"""The transport's own words: what `_OPEN_AGAIN` or `_ROOM_AGAIN` follows is over, and `_RELOADED` repairs itself."""

_RELOADS = 3
"""A table that is missing more often than this is removed by something that goes on."""

_SHOWN = 3
_SEVERITIES = {"3": "err", "4": "warn", "5": "notice", "6": "info"}
"""By syslog's numbers, in tor's words."""


async def log(reactor: IReactor, logs: Iterable[str]) -> Finding:
    """What tor complains of; *logs* are the values of its option Log."""
    files = [words[-1] for words in map(str.split, logs) if "file" in words]
    for path in files:
        try:
            return judge(read_end(Path(path), _TAIL).decode("utf-8", "replace"))
        except OSError as error:
            why = f"tor's log cannot be read: {error.strerror}"
            return unknown("tor's log", why, "run torknock doctor as root")
    if SYSTEMD_RUNS.exists():
        arguments = ["--unit=tor@default", "--unit=tor", "--lines=2000", "--no-pager", "--output=json"]
        try:
            return judge(from_journal(await command(reactor, "journalctl", arguments, package="systemd")))
        except GateFailed:
            pass
    why = "tor writes its log where it cannot be read from here"
    return unknown("tor's log", why, "look in it for torknock, or torrc: Log notice file /var/log/tor/notices.log")


def from_journal(entries: str) -> str:
    """*entries*, a JSON object a line, as tor would have written them to a file (systemd.journal-fields(7))."""
    lines = []
    for entry in entries.splitlines():
        if not entry.startswith("{"):  # a word of journalctl's own
            continue
        try:
            fields = json.loads(entry)
        except (ValueError, RecursionError):  # an entry that was cut off
            continue
        message, priority = fields.get("MESSAGE"), fields.get("PRIORITY")  # a list of them if there are several
        if isinstance(message, str) and isinstance(priority, str) and priority in _SEVERITIES:
            lines.append(f"[{_SEVERITIES[priority]}] {message}")
    return "\n".join(lines)


def judge(text: str) -> Finding:
    """What the log *text* says of the transport that runs now."""
    lines = text.splitlines()
    begun = _last(_ANEW, lines)
    complaints = [redact(_without_date(line)) for line in _current(lines[begun + 1 :])]
    if not complaints:
        return ok("tor's log", "tor complains of nothing about the transport")
    shown = " / ".join(list(dict.fromkeys(complaints))[-_SHOWN:])
    remedy = "see to what it says; then restart tor"
    return not_ok("tor's log", f"tor complains {len(complaints)} times: {shown}", remedy)


def _current(lines: list[str]) -> list[str]:
    """The complaints in *lines* that are not over."""
    opened = _last(_OPEN_AGAIN, lines)
    had_room = _last(_ROOM_AGAIN, lines)
    reloads = sum(_RELOADED.search(line) is not None for line in lines)
    return [
        line
        for number, line in enumerate(lines)
        if _COMPLAINT.search(line)
        and not (is_advice(line) or _OPEN_AGAIN.search(line) or _ROOM_AGAIN.search(line))
        and not (_CLOSED.search(line) and number < opened)
        and not (_FULL.search(line) and number < had_room)
        and not (_RELOADED.search(line) and reloads <= _RELOADS)
    ]


def _last(words: re.Pattern[str], lines: list[str]) -> int:
    """The last of *lines* that has *words*; -1 if none has."""
    return max((number for number, line in enumerate(lines) if words.search(line)), default=-1)


def _without_date(line: str) -> str:
    return line[line.index("[") :]
