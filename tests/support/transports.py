"""Transports as tor's children, started by hand."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pluggable.testing import TorOutput, TorSOCKS, client_environment
from tests.support.measured import measured

EXAMPLE = Path(__file__).parents[2] / "contrib" / "examples" / "plain.py"
"""The example transport."""

PATIENCE = 60.0
"""Seconds until a child that says nothing counts as hung; no test passes sooner or later for it."""


class Transport:
    """*program* as tor starts it, but with *environ* for its environment (None takes a variable away).

    With *arguments* it is what Python is called with.
    """

    def __init__(
        self,
        environ: Mapping[str, str | None],
        program: Path = EXAMPLE,
        stdin: int = subprocess.PIPE,
        arguments: Sequence[str] = (),
    ):
        self._directory = tempfile.TemporaryDirectory(prefix="transport-", ignore_cleanup_errors=True)
        data_directory = Path(self._directory.name) / "DataDirectory"
        self.state = data_directory / "pt_state"
        whole = {**client_environment((), data_directory), "TOR_PT_CLIENT_TRANSPORTS": None, **environ}
        self.process = subprocess.Popen(
            [sys.executable, *(arguments or [str(program)])],
            env={name: value for name, value in whole.items() if value is not None} | measured(),
            cwd="/", stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._hung = threading.Timer(PATIENCE, self.process.kill)
        self._hung.start()
        self.logged: list[str] = []

    def start(self) -> list[str]:
        """What it says up to `CMETHODS DONE` or `SMETHODS DONE`, but for LOG lines, which go to `logged`."""
        said = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("LOG "):
                self.logged.append(line.rstrip("\n"))
                continue
            said.append(line.rstrip("\n"))
            if said[-1].endswith("METHODS DONE"):
                break
        return said

    def port(self, said: list[str]) -> int:
        """The port that the first `CMETHOD` or `SMETHOD` line names."""
        output = TorOutput()
        output.feed("".join(f"{line}\n" for line in said).encode())
        return next(iter(output.methods.values())).port

    def end(self) -> tuple[int, str, str]:
        """Close its stdin and wait: its exit code, what it still said, and its stderr."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hung.cancel()
        with contextlib.suppress(OSError):
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()
        self._directory.cleanup()


class Echo:
    """A service on loopback that sends back what it hears."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while octets := connection.recv(65536):
                connection.sendall(octets)

    def close(self) -> None:
        """Serve no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def socks(port: int, to: int, *arguments: tuple[str, str]) -> tuple[socket.socket, int | None]:
    """tor's request at SOCKS port *port* for 127.0.0.1:*to*; the link, and the reply to it, 0 for success."""
    link = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    tor = TorSOCKS("127.0.0.1", to, arguments)
    link.sendall(tor.greeting())
    while tor.reply is None and (octets := link.recv(1)):
        link.sendall(tor.feed(octets))
    return link, tor.reply


def read(link: socket.socket, size: int) -> bytes:
    """Up to *size* octets, fewer at the end."""
    octets = b""
    while len(octets) < size and (more := link.recv(size - len(octets))):
        octets += more
    return octets


def nobody() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])
