"""The status of the running bridge and of its tor: asked for, and shown to people or scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from torknock.bridge.status_report import FIGURES, LONGEST, SOCKET, Status, from_json
from torknock.errors import TorknockError
from torknock.kernel.interfaces import IReactor
from torknock.tor.watch import TorSeen, TorUnseen, Watch

_TIMEOUT = 5.0
_PAUSE = 1.0
_SUN_PATH = 107  # sys/un.h, less the 0 at the end


class BridgeUnreachable(TorknockError):
    """No bridge tells its status."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(
            f"no bridge tells its status in {directory}: {reason}", "start tor, ask as root, or name another --keyring"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The bridge and its tor."""

    bridge: Status
    tor: TorSeen | TorUnseen


async def ask(reactor: IReactor, directory: Path) -> Status:
    """The status of the bridge whose keyring is in *directory*. Raises `BridgeUnreachable` and `StatusError`."""
    reader = _StatusReader()
    path = os.fsencode(directory / SOCKET)
    if len(path) > _SUN_PATH:
        raise BridgeUnreachable(directory, f"a socket's path has at most {_SUN_PATH} octets")
    try:
        await connectProtocol(UNIXClientEndpoint(reactor, path, timeout=_TIMEOUT), reader)
    except ConnectError as error:
        raise BridgeUnreachable(directory, _reason(error)) from None
    try:
        octets = await reader.octets.addTimeout(_TIMEOUT, reactor)
    except TimeoutError:
        raise BridgeUnreachable(directory, "it does not answer") from None
    if not octets:
        raise BridgeUnreachable(directory, "it closed the connection")
    return from_json(octets)


async def look(reactor: IReactor, directory: Path, watch: Watch) -> Report:
    """The bridge whose keyring is in *directory*, and the tor that *watch* looks at. Raises as `ask` does."""
    return Report(await ask(reactor, directory), await watch.look())


async def follow(reactor: IReactor, directory: Path, watch: Watch, show: Callable[[Report], object]) -> None:
    """Look every second, and *show* what is seen, until this is cancelled. Raises as `ask` does."""
    while True:
        show(await look(reactor, directory, watch))
        await deferLater(reactor, _PAUSE)


def as_json(report: Report) -> str:
    """One object: the status' members, `syns_to_a_hit`, and `tor`, which has `reason` alone if it was not seen."""
    bridge = asdict(report.bridge)
    return json.dumps({**bridge, "syns_to_a_hit": report.bridge.syns_to_a_hit, "tor": asdict(report.tor)})


def picture(report: Report) -> RenderableType:
    """A table of facts, one of the lines in use, and the warnings."""
    bridge = report.bridge
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, values in _facts(report).items():
        facts.add_row(Text(name), Text(", ".join(values)))
    parts: list[RenderableType] = [facts]
    if bridge.in_use:
        parts += ["", _lines(bridge)]
    warnings = [warned.text for warned in bridge.warnings]
    if isinstance(report.tor, TorSeen):
        warnings += [f"tor {report.tor.refusing}: no client gets through"] if report.tor.refusing else []
        warnings += [f"tor says: {complaint}" for complaint in report.tor.complaints]
    if warnings:
        parts += ["", *(Text(f"! {text}", style="bold red") for text in warnings)]
    return Group(*parts)


def _facts(report: Report) -> dict[str, list[str]]:
    """The rows of the table and what each says: its figures, and what is no number."""
    bridge = report.bridge
    rows = {"torknock": [bridge.version], "port": [str(bridge.port), bridge.posture]}
    for name, figure in FIGURES.items():
        value = getattr(bridge, name)
        rows.setdefault(figure.row, []).append(figure.unknown if value is None else figure.words(value))
    return rows | {"tor": [_tor(report.tor)]}


def _lines(bridge: Status) -> RenderableType:
    lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    lines.add_column("line in use", overflow="fold")
    lines.add_column("connections now", justify="right")
    lines.add_column("since the start", justify="right")
    for line in sorted(bridge.in_use, key=lambda line: (-line.connections, line.name)):
        lines.add_row(Text(line.name), f"{line.connections:,}", f"{line.opened:,}")
    return lines


def _tor(tor: TorSeen | TorUnseen) -> str:
    if isinstance(tor, TorUnseen):
        return f"control port not reachable: {tor.reason}"
    or_port = {True: "ORPort answers", False: "ORPort does not answer", None: "it has no ORPort"}[tor.or_port_answers]
    if tor.refusing:
        or_port = tor.refusing
    return f"{tor.version}, bootstrapped {tor.bootstrapped} %, {or_port}, {tor.or_connections:,} OR connections"


def _reason(error: ConnectError) -> str:
    """Why there is no connection, without Twisted's words about it."""
    return os.strerror(error.osError) if isinstance(error.osError, int) else "it is busy"


class _StatusReader(Protocol):
    """Reads all that the bridge sends, to the end."""

    transport: Any

    def __init__(self) -> None:
        self._received = bytearray()
        self.octets: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > LONGEST:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.octets.called:
            self.octets.callback(bytes(self._received))
