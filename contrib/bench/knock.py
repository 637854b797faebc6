"""Time from `connect` to the service's first byte, with a knock and without, through the same relay."""

from __future__ import annotations

import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contrib.bench.table import Figure
from contrib.bench.transports import plain_server, service, torknock_server
from tests.support.netns import Namespace, end
from torknock.kernel.socket_options import TCP_QUEUE_SEQ, TCP_REPAIR, TCP_REPAIR_ON, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE
from torknock.keyring.lines import Keyring
from torknock.protocol.bridge_line import Channel
from torknock.protocol.token import epoch_at, tokens

DIALS = 500
"""Connections of each kind, taking turns."""


def _greet(connection: socket.socket) -> None:
    with connection:
        connection.sendall(b"!")
        connection.recv(1)


def _first_byte(where: Namespace, port: int, isn: int | None) -> float:
    """Seconds from `connect` to the first byte."""
    with where.enter():
        connection = socket.socket()
    with connection:
        if isn is not None:
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
            connection.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", isn))
            connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
        began = time.perf_counter()
        connection.connect(("127.0.0.1", port))
        if connection.recv(1) != b"!":
            raise ConnectionError("the service did not answer")
        return time.perf_counter() - began


def figures() -> Iterator[Figure]:
    """The medians, and their ratio."""
    knocked, plain = [], []
    with tempfile.TemporaryDirectory(prefix="torknock-bench-") as directory, Namespace("tk-bench-knock") as where:
        with Keyring.open(Path(directory) / "server" / "torknock", create=True) as keyring:
            line = keyring.add("bench", n=1024, channel=Channel.RAW, expires=None, now=time.time()).line
        with service(where, _greet) as or_port:
            hidden = torknock_server(where, f"{directory}/server", or_port)
            bare = plain_server(where, f"{directory}/plain", or_port)
            bare_port = int(bare.method[2].rpartition(":")[2])
            epoch = epoch_at(time.time())
            fresh = iter(tokens(line.secret, line.bridge_name, epoch, line.n))
            try:
                for _ in range(DIALS):
                    knocked.append(_first_byte(where, 443, next(fresh)))
                    plain.append(_first_byte(where, bare_port, None))
            finally:
                end([hidden.process, bare.process])
    with_knock, without = statistics.median(knocked), statistics.median(plain)
    yield Figure("knock", "connect to first byte, with a knock", 1000 * with_knock, "ms")
    yield Figure("knock", "connect to first byte, without", 1000 * without, "ms")
    yield Figure("knock", "with / without", with_knock / without, "ratio", at_most=1.1)
