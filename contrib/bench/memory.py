"""Memory that a connection takes at both ends, while it is idle, and what is left of it afterwards."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from contrib.bench.table import Figure
from contrib.bench.transports import CHUNK, Child, Pair, obfs4, service, torknock
from tests.support.netns import Namespace

CONNECTIONS = 400
WARM = 40
"""Connections before the first look, so that what is loaded or allotted once is not counted."""

SIZE = 1 << 20
"""Octets that a connection carries each way before it is idle."""

SETTLED = 10.0
"""Seconds that a transport has to give memory back."""


class Taken(NamedTuple):
    """Of one end: KB a connection after its handshake, the same once it has carried `SIZE`, MB left after all ended."""

    fresh: float
    used: float
    left: float


def _echo(connection: socket.socket) -> None:
    with connection:
        while octets := connection.recv(CHUNK):
            connection.sendall(octets)


def _bounce(connection: socket.socket) -> None:
    """Send `SIZE` octets and read them again."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(connection.sendall, bytes(SIZE))
        left = SIZE
        while left:
            got = len(connection.recv(min(left, CHUNK)))
            if not got:
                raise ConnectionError(f"{left} octets are missing")
            left -= got
        sent.result()


def _octets(child: Child) -> int:
    """What the process itself takes of the machine: its anonymous memory (proc_pid_smaps_rollup(5))."""
    told = Path(f"/proc/{child.process.pid}/smaps_rollup").read_text()
    found = re.search(r"^Anonymous: +(\d+) kB$", told, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _ends(pair: Pair) -> tuple[int, int]:
    return _octets(pair.client), _octets(pair.server)


def _bear(pair: Pair, number: int, stack: ExitStack) -> list[socket.socket]:
    return [stack.enter_context(pair.connect()) for _ in range(number)]


def _measure(pair: Pair) -> tuple[Taken, Taken]:
    """What client and server take."""
    with ExitStack() as stack:
        for connection in _bear(pair, WARM, stack):
            _bounce(connection)
    time.sleep(SETTLED)
    before = _ends(pair)
    with ExitStack() as stack:
        connections = _bear(pair, CONNECTIONS, stack)
        fresh = _ends(pair)
        for connection in connections:
            _bounce(connection)
        used = _ends(pair)
    time.sleep(SETTLED)
    after = _ends(pair)
    client, server = (
        Taken((b - a) / CONNECTIONS / 1e3, (c - a) / CONNECTIONS / 1e3, (d - a) / 1e6)
        for a, b, c, d in zip(before, fresh, used, after, strict=True)
    )
    return client, server


def figures() -> Iterator[Figure]:
    """Of both channels and obfs4proxy, and the ratio of `tls` to obfs4proxy."""
    with Namespace("tk-bench-memory") as where, service(where, _echo) as or_port:
        taken = {}
        for channel in ("tls", "raw"):
            with torknock(where, or_port, channel) as pair:
                taken[channel] = _measure(pair)
        with obfs4(where, or_port) as pair:
            theirs = _measure(pair)
    for name, ends in (*taken.items(), ("obfs4proxy", theirs)):
        for end, of in zip(("client", "server"), ends, strict=True):
            fresh, used, left = (None, None, None) if name == "obfs4proxy" else (60, 60, 10)
            if (name, end) == ("tls", "client"):
                used = 120  # a browser's TLS keeps room for three records
            yield Figure("memory", f"{name}, {end}, a fresh connection", of.fresh, "KB", at_most=fresh)
            yield Figure("memory", f"{name}, {end}, a used connection", of.used, "KB", at_most=used)
            yield Figure("memory", f"{name}, {end}, left by {CONNECTIONS}", of.left, "MB", at_most=left)
    for number, end in enumerate(("client", "server")):
        ratio = taken["tls"][number].used / theirs[number].used
        yield Figure("memory", f"{end}, a used connection, tls / obfs4proxy", ratio, "ratio", at_most=1)
