"""The lines of a bridge and what became of them, for people or for scripts. Nothing secret."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import StringIO
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from torknock.keyring.file import KeyringMissing
from torknock.keyring.issued import Issued
from torknock.keyring.lines import Keyring
from torknock.keyring.rows import DAY
from torknock.protocol.bridge_line import LineError, parse_address

REISSUE = "issue others instead, with new names: torknock line add NAME --sni HOST"
"""What to do about lines of channel `tls` at a bridge that has a site."""

_WIDEST = 1000
"""Columns that any table of lines fits in."""
_NARROWEST_NOTE = 12


@dataclass(frozen=True, slots=True)
class HandedOut:
    """The lines that people have."""

    live: int
    """How many of them open a connection."""
    address: IPv4Address | IPv6Address
    port: int


def handed_out(directory: Path, now: float) -> HandedOut | None:
    """Where the lines of the keyring in *directory* say that the bridge is; None if it is not known there.

    Raises `KeyringUnreadable`.
    """
    try:
        with Keyring.open(directory, create=False) as keyring:
            address, port = parse_address(keyring.setting("address") or "")
            return HandedOut(sum(issued.is_live(now) for issued in keyring.lines()), address, port)
    except (KeyringMissing, LineError):
        return None


def state(issued: Issued, now: float) -> str:
    """`live`, `expired` or `revoked`."""
    if issued.revoked is not None:
        return "revoked"
    return "live" if issued.is_live(now) else "expired"


def as_json(lines: Iterable[Issued], now: float) -> str:
    """An array of objects, in the order of *lines*. Times are UTC (RFC 3339), `last_used` is a day; null is never."""
    return json.dumps([_facts(issued, now) for issued in lines], indent=2)


def _facts(issued: Issued, now: float) -> dict[str, object]:
    return {
        "name": issued.name,
        "state": state(issued, now),
        "scheme": issued.line.scheme,
        "channel": issued.line.channel,
        "created": _time(issued.created),
        "expires": None if issued.expires is None else _time(issued.expires),
        "revoked": None if issued.revoked is None else _time(issued.revoked),
        "last_used": None if issued.last_used is None else day(issued.last_used * DAY),
        "connections": issued.connections,
        "note": issued.note,
    }


def as_table(lines: Iterable[Issued], now: float, width: int | None) -> str:
    """A table, one line below the other, without a line end.

    Where it is wider than *width*, the notes are folded, and nothing else.
    """
    issued = list(lines)
    plain = Console(file=StringIO(), color_system=None, width=_WIDEST)
    room = None
    if width is not None:
        without_notes = _table([replace(each, note="") for each in issued], now, None)
        taken = Measurement.get(plain, plain.options, without_notes).maximum - len("NOTE")
        room = max(width - taken, _NARROWEST_NOTE)
    with plain.capture() as captured:
        plain.print(_table(issued, now, room))
    return "\n".join(row.rstrip() for row in captured.get().splitlines())


def _table(lines: Iterable[Issued], now: float, room: int | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("NAME", "STATE", "CREATED", "ENDS (UTC)", "LAST USED"):
        table.add_column(heading, no_wrap=True)
    table.add_column("USES", justify="right", no_wrap=True)
    table.add_column("NOTE", overflow="fold", max_width=room)
    for issued in lines:
        until = issued.expires if issued.revoked is None else issued.revoked
        table.add_row(
            issued.name,
            state(issued, now),
            day(issued.created),
            "never" if until is None else minute(until),
            "never" if issued.last_used is None else day(issued.last_used * DAY),
            str(issued.connections),
            Text(issued.note),
        )
    return table


def day(unix_time: int) -> str:
    """The day of *unix_time*, in UTC."""
    return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%d}"


def minute(unix_time: int) -> str:
    """The minute of *unix_time*, in UTC."""
    return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%d %H:%M}"


def _time(unix_time: int) -> str:
    return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%dT%H:%M:%SZ}"
