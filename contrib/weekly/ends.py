"""Both ends of torknock on hosts of their own, and what goes through them."""

from __future__ import annotations

import contextlib
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from contrib.bench.table import Figure
from contrib.bench.transports import connect, torknock_client
from tests.support.bridge import GREETING, HiddenService
from tests.support.netns import Lab, end
from torknock.protocol.bridge_line import Channel, arguments

_PATIENCE = 40.0
"""Seconds in which a client that tries on, as `torknock client` does, has an answer for tor."""


_AGAIN_WITHIN = 150.0
"""Seconds: a client whose attempts have failed tries a bridge again after two minutes."""

_LINES = 4
"""So that no session wants for tokens: each line has 1,024 in five minutes."""


class Ends:
    """`torknock client` and `torknock server`, channel `tls`, with an echoing service behind; sessions through both."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self.lab = Lab()
            stack.callback(self.lab.close)
            self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
            self.service = stack.enter_context(HiddenService(self.bridge))
            with self.service.keyring() as keyring:
                names = [f"weekly{number}" for number in range(_LINES)]
                now = time.time()
                issued = [keyring.add(name, n=1024, channel=Channel.TLS, expires=None, now=now) for name in names]
            state = stack.enter_context(tempfile.TemporaryDirectory(prefix="torknock-weekly-"))
            self.child = torknock_client(self.client, state)
            stack.callback(end, [self.child.process])
            self._words = itertools.cycle(
                [";".join(f"{name}={value}" for name, value in arguments(each.line)) for each in issued]
            )
            self._stack = stack.pop_all()
        if not self.carries_within(30.0):
            self.close()
            raise RuntimeError("no client was let in before the part began")

    def session(self) -> Session:
        """A session through both ends. Raises `OSError` if there is none."""
        return Session(connect(self.client, self.child, (self.bridge.address, 443), next(self._words)))

    def carries_within(self, seconds: float) -> bool:
        """Whether a session stands within so many *seconds*."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(OSError), self.session() as session:
                session.exchange(1)
                return True
            time.sleep(0.2)
        return False

    def close(self) -> None:
        """End both, and remove the hosts."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session:
    """A connection to the service, which has greeted."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(_PATIENCE)
        self._read(len(GREETING))

    def exchange(self, kilobytes: int) -> None:
        """Send so much, a kilobyte at a time, and hear it again. Raises `OSError`."""
        for number in range(kilobytes):
            said = number.to_bytes(4) * 256
            self._connection.sendall(said)
            if self._read(len(said)) != said:
                raise ConnectionError("another answer came")

    def _read(self, size: int) -> bytes:
        octets = b""
        while len(octets) < size:
            piece = self._connection.recv(size - len(octets))
            if not piece:
                raise ConnectionError("the connection ended")
            octets += piece
        return octets

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


class Traffic:
    """Sessions, one after the other in some threads, from `__enter__` to `__exit__`; each exchanges *kilobytes*."""

    def __init__(self, ends: Ends, threads: int = 4, kilobytes: int = 16) -> None:
        self._ends, self._kilobytes = ends, kilobytes
        self.carried, self.failed = 0, 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, daemon=True) for _ in range(threads)]

    def _go_on(self) -> None:
        while not self._over.is_set():
            try:
                with self._ends.session() as session:
                    session.exchange(self._kilobytes)
                self.carried += 1
            except OSError:
                self.failed += 1
            self._over.wait(1.0)

    @property
    def share(self) -> float:
        """Of the sessions that ended, those that were carried."""
        return self.carried / max(1, self.carried + self.failed)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * _PATIENCE)


def every(seconds: float, minutes: float) -> Iterator[int]:
    """0, 1, ... every so many *seconds*, for so many *minutes*; 0 in any case."""
    until = time.monotonic() + 60 * minutes
    for number in itertools.count():
        yield number
        time.sleep(seconds)
        if time.monotonic() > until:
            return


def carried(part: str, traffic: Traffic, at_least: float) -> Iterator[Figure]:
    """The share of the sessions that were carried."""
    yield Figure(part, f"share of {traffic.carried + traffic.failed} sessions that were carried", traffic.share, "",
                 at_least=at_least)  # fmt: skip


def back(part: str, ends: Ends) -> Figure:
    """How long it takes afterwards until a session stands."""
    began = time.monotonic()
    ends.carries_within(2 * _AGAIN_WITHIN)
    return Figure(part, "time to a session afterwards", time.monotonic() - began, "s", at_most=_AGAIN_WITHIN)


def virtual(pid: int) -> int:
    """Octets of address space that the process has (proc(5), VmSize)."""
    return 1024 * _kilobytes(pid, "VmSize:")


def resident(pid: int) -> int:
    """Kilobytes of memory that the process has (proc(5), VmRSS)."""
    return _kilobytes(pid, "VmRSS:")


def _kilobytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    return int(status.partition(name)[2].split()[0])
