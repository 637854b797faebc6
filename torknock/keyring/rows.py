"""A line as a row of the keyring's file, which may be damaged. Pure."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from torknock.keyring.issued import Issued
from torknock.keyring.line_errors import BadName, check_name
from torknock.protocol.bridge_line import Channel, Line, LineError, Scheme, arguments, parse_arguments

COLUMNS = (
    "name, secret, n, sni, scheme, channel, integrity, created, expires, revoked, note, last_used, connections, cut,"
    " shape, pin, path, coalesce((SELECT group_concat(address, ' ') FROM"
    " (SELECT address FROM printed_with WHERE printed_with.line = line.name ORDER BY printed_with.rowid)), '')"
)
"""What `issued_of` reads, as part of a SELECT from `line`."""

INSERT = (
    "INSERT INTO line (name, secret, n, sni, scheme, channel, integrity, created, expires, note,"
    " shape, pin, path) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"
)
"""Writes a new line, unless there is one of its name."""

_TYPES = (
    str, bytes, int, str | None, str, str, int, int, int | None, int | None, str, int | None, int, int, int,
    bytes | None, str, str,
)  # fmt: skip

DAY = 86_400
"""Seconds of a day."""

_LAST_TIME = 253_402_300_799
"""The last second of the year 9999: later ones cannot be written down as dates."""

_ERASED = bytes(32)
"""Stands for a secret that is erased where one must have the right form."""


def pin_in(scheme: Scheme, channel: Channel, pin: bytes, site_pin: bytes | None) -> bytes | None:
    """The pin in a line of the bridge with this *pin*: with channel `web` it is that of its site, if there is one."""
    if scheme is not Scheme.TOKEN:
        return None
    return site_pin if channel is Channel.WEB else pin


def issued_of(row: tuple[Any, ...], pin: bytes) -> Issued | None:
    """The line that *row*, of `COLUMNS`, has at the bridge with this *pin*; None if the row is damaged."""
    if not all(map(isinstance, row, _TYPES)):
        return None
    name, secret, n, sni, scheme, channel, integrity = row[:7]
    created, expires, revoked, note, last_used, connections, cut, shape, site_pin, path, addresses = row[7:]
    times = (created, expires or 0, revoked or 0, (last_used or 0) * DAY)
    if not note.isprintable() or not all(0 <= at <= _LAST_TIME for at in times):
        return None
    with suppress(BadName, LineError, ValueError):
        check_name(name)
        named = pin_in(Scheme(scheme), Channel(channel), pin, site_pin)
        line = Line(secret, named, n, sni, Scheme(scheme), Channel(channel), integrity, bool(shape), path)
        valid = parse_arguments(arguments(replace(line, secret=secret or _ERASED)))
        known = tuple(str(ip_address(each)) for each in addresses.split())
        line = replace(valid, secret=secret)
        return Issued(name, line, created, expires, revoked, note, last_used, connections, bool(cut), known)
    return None
