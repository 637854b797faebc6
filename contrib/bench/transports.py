"""Pairs of managed transports, started as tor starts them, in a network namespace: ours and a peer."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tests.support.netns import Namespace, end
from tests.support.nginx import NAME, Nginx
from tests.unit.channel import peer
from torknock.kernel.places import SITE_SOCKET

TORKNOCK = str(Path(sys.executable).with_name("torknock"))
CHUNK = 1 << 18
_ANSWERS_WITHIN = 60.0
"""Seconds for each answer of a SOCKS port; a transport gives up before."""

_PUBLIC = "192.0.2.7"
"""The bridge's address, on the namespace's loopback interface: no line is made for 127.0.0.1."""


class Child:
    """A managed transport: what it said at its start, and the CPU seconds that it has used."""

    def __init__(self, where: Namespace, arguments: list[str], environment: dict[str, str]) -> None:
        self.process: subprocess.Popen[str] = where.popen(
            arguments,
            env={"TOR_PT_MANAGED_TRANSPORT_VER": "1", "PATH": "/usr/sbin:/usr/bin", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.method: list[str] = []
        assert self.process.stdout is not None
        for told in self.process.stdout:
            words = told.split()
            if words[0] in ("CMETHOD", "SMETHOD"):
                self.method = words
            elif words[0].endswith("-ERROR"):
                raise RuntimeError(told.strip())
            elif words[-1] == "DONE" and words[0] != "PROXY":
                break
        threading.Thread(target=_drain, args=(self.process.stdout,), daemon=True).start()

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return cpu_seconds(self.process.pid)


def cpu_seconds(pid: int) -> float:
    """User and system time of process *pid* so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _drain(pipe: IO[str]) -> None:
    with contextlib.suppress(ValueError):
        for _ in pipe:
            pass


class Pair:
    """A client and a server in one namespace, and the way from the one's SOCKS port to what is behind the other."""

    def __init__(self, where: Namespace, client: Child, server: Child, target: tuple[str, int], arguments: str) -> None:
        self.client, self.server = client, server
        self._where, self._target, self._arguments = where, target, arguments

    def connect(self) -> socket.socket:
        """A connection through both. Raises `OSError` if there is none."""
        return connect(self._where, self.client, self._target, self._arguments)


def connect(where: Namespace, client: Child, target: tuple[str, int], arguments: str) -> socket.socket:
    """A connection through *client* to the bridge *target* (RFC 1928, RFC 1929). Raises `OSError` if there is none."""
    host, _, port = client.method[3].rpartition(":")
    with where.enter():
        connection = socket.socket()
    try:
        connection.settimeout(_ANSWERS_WITHIN)
        connection.connect((host, int(port)))
        connection.sendall(b"\5\1\2")
        _expect(connection, b"\5\2")
        user, rest = arguments[:255].encode(), arguments[255:].encode() or b"\0"
        connection.sendall(b"\1" + bytes([len(user)]) + user + bytes([len(rest)]) + rest)
        _expect(connection, b"\1\0")
        connection.sendall(b"\5\1\0\1" + socket.inet_aton(target[0]) + struct.pack("!H", target[1]))
        _expect(connection, b"\5\0")
        _read(connection, 8)
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def _read(connection: socket.socket, size: int) -> bytes:
    octets = b""
    while len(octets) < size:
        piece = connection.recv(size - len(octets))
        if not piece:
            raise ConnectionError("the transport closed the connection")
        octets += piece
    return octets


def _expect(connection: socket.socket, answer: bytes) -> None:
    heard = _read(connection, len(answer))
    if heard != answer:
        raise ConnectionError(f"the transport answered {heard.hex()} and not {answer.hex()}")


@contextlib.contextmanager
def service(where: Namespace, serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port on loopback of a TCP service that gives each connection to *serve*, in a thread."""
    with where.enter():
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


@contextlib.contextmanager
def torknock(where: Namespace, or_port: int, channel: str = "tls") -> Iterator[Pair]:
    """`torknock client` and `torknock server` with one line of many tokens."""
    with tempfile.TemporaryDirectory(prefix="torknock-bench-") as directory:
        where.ip(f"address replace {_PUBLIC}/32 dev lo")
        server = torknock_server(where, f"{directory}/server", or_port)
        line = where.run(
            [TORKNOCK, "line", "add", "bench", "--n", "1024", "--channel", channel, "--address", f"{_PUBLIC}:443",
             "--fingerprint", "0" * 40, "--keyring", f"{directory}/server/torknock"]
        ).stdout  # fmt: skip
        arguments = ";".join(word for word in line.split() if "=" in word)
        client = torknock_client(where, f"{directory}/client")
        try:
            yield Pair(where, client, server, (_PUBLIC, 443), arguments)
        finally:
            end([client.process, server.process])


@contextlib.contextmanager
def torknock_web(where: Namespace, or_port: int) -> Iterator[tuple[Pair, Nginx]]:
    """The same with channel `web`, behind nginx."""
    with tempfile.TemporaryDirectory(prefix="torknock-bench-") as directory:
        where.ip(f"address replace {_PUBLIC}/32 dev lo")
        site, keyring = Path(f"{directory}/site"), ["--keyring", f"{directory}/server/torknock"]
        site.mkdir()
        server = torknock_server(where, f"{directory}/server", or_port, f"torknock:site={site}")
        with Nginx(where.run([TORKNOCK, "site", *keyring]).stdout, peer.certificate(NAME), peer.KEY) as nginx:
            nginx.start(site / SITE_SOCKET, where)
            line = where.run(
                [TORKNOCK, "line", "add", "bench", "--n", "1024", "--sni", NAME, "--address", f"{_PUBLIC}:443",
                 "--fingerprint", "0" * 40, *keyring]
            ).stdout  # fmt: skip
            arguments = ";".join(word for word in line.split() if "=" in word)
            client = torknock_client(where, f"{directory}/client")
            try:
                yield Pair(where, client, server, (_PUBLIC, 443), arguments), nginx
            finally:
                end([client.process, server.process])


@contextlib.contextmanager
def obfs4(where: Namespace, or_port: int) -> Iterator[Pair]:
    """obfs4proxy's client and server."""
    with tempfile.TemporaryDirectory(prefix="torknock-bench-") as directory:
        server = _server(where, ["obfs4proxy"], "obfs4", "127.0.0.1:0", f"{directory}/server", or_port)
        client = _client(where, ["obfs4proxy"], "obfs4", f"{directory}/client")
        host, _, port = server.method[2].rpartition(":")
        arguments = server.method[3].removeprefix("ARGS:").replace(",", ";")
        try:
            yield Pair(where, client, server, (host, int(port)), arguments)
        finally:
            end([client.process, server.process])


def torknock_server(where: Namespace, state: str, or_port: int, options: str = "") -> Child:
    """`torknock server` on port 443 of every address; its keyring is in `torknock` below *state*."""
    return _server(where, [TORKNOCK, "server"], "torknock", "0.0.0.0:443", state, or_port, options)


def torknock_client(where: Namespace, state: str) -> Child:
    """`torknock client`; it remembers in *state*."""
    return _client(where, [TORKNOCK, "client"], "torknock", state)


def plain_server(where: Namespace, state: str, or_port: int) -> Child:
    """The example transport, on a port of its own: what is left of ours without gate and channel."""
    return _server(where, [sys.executable, "contrib/examples/plain.py"], "plain", "127.0.0.1:0", state, or_port)


def _server(
    where: Namespace, arguments: list[str], name: str, bind: str, state: str, or_port: int, options: str = ""
) -> Child:
    return Child(where, arguments, {
        **({"TOR_PT_SERVER_TRANSPORT_OPTIONS": options} if options else {}),
        "TOR_PT_STATE_LOCATION": f"{state}/",
        "TOR_PT_SERVER_TRANSPORTS": name,
        "TOR_PT_SERVER_BINDADDR": f"{name}-{bind}",
        "TOR_PT_ORPORT": f"127.0.0.1:{or_port}",
    })  # fmt: skip


def _client(where: Namespace, arguments: list[str], name: str, state: str) -> Child:
    return Child(where, arguments, {"TOR_PT_STATE_LOCATION": f"{state}/", "TOR_PT_CLIENT_TRANSPORTS": name})
