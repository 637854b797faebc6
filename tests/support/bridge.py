"""A hidden service without tor: `torknock server` itself, and behind it an ORPort that greets and echoes."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pluggable.testing import server_environment
from tests.support.netns import Host, Namespace, end
from torknock.kernel.socket_options import TCP_QUEUE_SEQ, TCP_REPAIR, TCP_REPAIR_ON, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE
from torknock.keyring.issued import Issued
from torknock.keyring.lines import Keyring
from torknock.protocol.bridge_line import Channel
from torknock.protocol.token import epoch_at

TORKNOCK = str(Path(sys.executable).with_name("torknock"))
"""The command that is tested: the one of this Python's environment."""

_SKEWED = str(Path(__file__).with_name("skewed.py"))

GREETING = b"this is the hidden service\n"
"""What the service behind the door says first."""


POWERLESS = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--ambient-caps=-net_admin")
"""What a command is put behind that shall have no CAP_NET_ADMIN."""


class HiddenService:
    """`torknock server` on *host*, as tor starts it, in front of a service that says `GREETING` and echoes.

    *options* are its `ServerTransportOptions`, read at each start; with a *helper*, the socket of `torknock gate`, it
    has no capability. Its clock is wrong by *skew* seconds; see `skew`.
    With *own*, the socket of such a service too, it has: it makes its own gate, and the two exclude each other.
    Its command is put behind that of *before*.
    """

    def __init__(
        self,
        host: Host,
        listen: str = "0.0.0.0:443",
        directory: Path | None = None,
        options: Mapping[str, str] | None = None,
        helper: Path | None = None,
        skew: float = 0.0,
        own: Path | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.host = host
        self.options = dict(options or {})
        self._directory = tempfile.TemporaryDirectory(prefix="torknock-", ignore_cleanup_errors=True)
        self._skew = Path(self._directory.name) / "skew"
        self.skew(skew)
        powerless = () if helper is None else POWERLESS
        service = helper or own or Path(self._directory.name) / "gate.sock"
        self._command = [*before, *powerless, sys.executable, _SKEWED, str(self._skew), f"--helper={service}"]
        self.state = directory or Path(self._directory.name) / "pt_state"
        self.state.mkdir(mode=0o700, exist_ok=True)
        with host.enter():
            self._service = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        self.listen = listen
        self.said: list[str] = []
        self.process = self.start()

    def skew(self, seconds: float) -> None:
        """Set the clock of the transport, and only its, *seconds* ahead of the right time."""
        draft = self._skew.with_suffix(".draft")
        draft.write_text(str(seconds))
        draft.replace(self._skew)

    def start(self) -> subprocess.Popen[str]:
        """Start the transport and wait until it has said all that it says at its start."""
        options = ";".join(
            f"torknock:{name}={value.replace(':', chr(92) + ':')}" for name, value in self.options.items()
        )
        or_port = f"127.0.0.1:{self._service.getsockname()[1]}"
        environment = {
            **server_environment({"torknock": self.listen}, self.state.parent, or_port=or_port, options=options),
            "TOR_PT_STATE_LOCATION": f"{self.state}/",
            "PATH": "/usr/sbin:/usr/bin",
        }
        self.process = self.host.popen(
            self._command,
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        for told in self.process.stdout:
            self.said.append(told.rstrip("\n"))
            if told == "SMETHODS DONE\n":
                break
        threading.Thread(target=self._listen_to, args=(self.process,), daemon=True).start()
        return self.process

    def _listen_to(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):
            self.said += (told.rstrip("\n") for told in process.stdout)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._service.accept()
                threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    @staticmethod
    def _greet(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(GREETING)
            while octets := connection.recv(65536):
                connection.sendall(octets)

    def keyring(self) -> Keyring:
        """The keyring of the running transport, opened a second time."""
        return Keyring.open(self.state / "torknock", create=True)

    def line(self, name: str, now: float, n: int = 64, expires: int | None = None) -> Issued:
        """A new line of channel `raw`, so that a knock alone reaches the service."""
        with self.keyring() as keyring:
            return keyring.add(name, n=n, channel=Channel.RAW, expires=expires, now=now)

    def close(self) -> None:
        """End the transport and the service, and remove the keyring."""
        end([self.process])
        self._service.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def knocker(source: Namespace, family: socket.AddressFamily, isn: int | None) -> socket.socket:
    """A socket of *source* whose SYN will have the ISN *isn* (None: the kernel's own)."""
    with source.enter():
        connection = socket.socket(family, socket.SOCK_STREAM)
    if isn is not None:
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)
        connection.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, struct.pack("=I", isn))
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
    return connection


def fresh(issued: Issued) -> Iterator[int]:
    """Tokens of *issued* that are valid now, each once: of this epoch, and of its neighbours once they are used up."""
    for epoch in (0, 1, -1):
        yield from issued.line.tokens(epoch_at(time.time()) + epoch)


def connected(source: Namespace, address: str, port: int, isn: int | None, patience: float = 3.0) -> socket.socket:
    """A connection from *source* whose SYN had the ISN *isn* (None: the kernel's own). Raises `OSError`."""
    connection = knocker(source, socket.AF_INET6 if ":" in address else socket.AF_INET, isn)
    try:
        connection.settimeout(patience)
        connection.connect((address, port))
    except BaseException:
        connection.close()
        raise
    return connection


def knock(source: Namespace, address: str, port: int, isn: int | None, patience: float = 3.0) -> bytes | str:
    """What comes first on such a connection, or why not: "refused", "reset" or "silence"."""
    try:
        with connected(source, address, port, isn, patience) as connection:
            return connection.recv(len(GREETING))
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "silence"
