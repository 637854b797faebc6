"""MB/s and CPU seconds a GB of torknock's client and server, and of obfs4proxy's."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from contrib.bench.table import Figure
from contrib.bench.transports import CHUNK, Pair, obfs4, service, torknock
from tests.support.netns import Namespace

SIZE = 400 << 20
"""Octets that are sent one way, and then the other, a run."""

RUNS = 3


def swallow_then_send(connection: socket.socket) -> None:
    """Read `SIZE` octets, say so with one, then send as many."""
    with connection:
        _swallow(connection)
        connection.sendall(b"!")
        _send(connection)


def _send(connection: socket.socket) -> None:
    chunk = bytes(CHUNK)
    for _ in range(SIZE // CHUNK):
        connection.sendall(chunk)


def _swallow(connection: socket.socket) -> None:
    left, room = SIZE, bytearray(CHUNK)
    while left:
        got = connection.recv_into(room, min(left, CHUNK))
        if not got:
            raise ConnectionError(f"{left} octets are missing")
        left -= got


def measure(pair: Pair) -> tuple[float, float, float]:
    """MB/s, and CPU seconds a GB of client and server, of one transfer each way."""
    with pair.connect() as connection:
        before = (pair.client.cpu_seconds, pair.server.cpu_seconds)
        began = time.monotonic()
        _send(connection)
        connection.recv(1)
        _swallow(connection)
        took = time.monotonic() - began
        client, server = pair.client.cpu_seconds - before[0], pair.server.cpu_seconds - before[1]
    moved = 2 * SIZE
    return moved / took / 1e6, client / (moved / 1e9), server / (moved / 1e9)


def figures() -> Iterator[Figure]:
    """The medians of `RUNS` runs that take turns, and the ratios of them."""
    ours, theirs = [], []
    with (
        Namespace("tk-bench-relay") as where,
        service(where, swallow_then_send) as or_port,
        torknock(where, or_port) as torknock_pair,
        obfs4(where, or_port) as obfs4_pair,
    ):
        for _ in range(RUNS):
            ours.append(measure(torknock_pair))
            theirs.append(measure(obfs4_pair))
    a, b = (tuple(sorted(column)[RUNS // 2] for column in zip(*rows, strict=True)) for rows in (ours, theirs))
    for number, what in enumerate(("speed, MB/s", "client, CPU s/GB", "server, CPU s/GB")):
        yield Figure("relay", f"torknock {what}", a[number], "")
        yield Figure("relay", f"obfs4proxy {what}", b[number], "")
    yield Figure("relay", "speed, torknock / obfs4proxy", a[0] / b[0], "ratio", at_least=2)
    yield Figure("relay", "client CPU a GB, torknock / obfs4proxy", a[1] / b[1], "ratio", at_most=0.5)
    yield Figure("relay", "server CPU a GB, torknock / obfs4proxy", a[2] / b[2], "ratio", at_most=0.5)
