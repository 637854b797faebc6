"""Whether a middlebox rewrites sequence numbers or timestamps: a reflector, and the client that asks it.

The reflector answers every connection with what it saw of the SYN, in one line, and closes. It needs no privilege and
keeps nothing; its port is open, and every scan finds it.
"""

from __future__ import annotations

import errno
import re
import socket
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from torknock.errors import TorknockError
from torknock.interfaces import CannotKnock
from torknock.kernel.capability import may_administer_network
from torknock.kernel.interfaces import IReactor
from torknock.kernel.ipv6 import NO_IPV6
from torknock.kernel.socket_options import TCP_SAVE_SYN
from torknock.kernel.syn_reader import SavedSYNs
from torknock.privileged.dial.repair import RepairDialer
from torknock.privileged.dial.timestamp import clock, stamps

TIMEOUT = 10.0
"""Seconds that a connection may take, and then the answer."""

_ANSWER = re.compile(rb"torknock reflect isn=(0|[1-9][0-9]{0,9}) tsval=(none|0|[1-9][0-9]{0,9})\n")
_ANSWER_AT_MOST = 64
_NO_REFLECTOR = "what answered is no reflector; start one there with `torknock reflect`"


class PathUnknown(TorknockError):
    """Nothing was found out; the text says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reflector saw of a SYN; *tsval* is None if it had no timestamp."""

    isn: int
    tsval: int | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What left this host; *isn* is None if that cannot be known, *tsval* if the SYN had no timestamp."""

    isn: int | None
    tsval: int | None
    late_ms: int = 0
    """The TSval was read so long after the SYN left, at most."""


class Verdict(IntEnum):
    """What became of a SYN on its way: an exit status."""

    UNTOUCHED = 0
    REWRITTEN = 1
    UNKNOWN = 2


def judge(sent: Sent, seen: Seen) -> tuple[Verdict, str]:
    """What became of *sent* on its way to the reflector that saw *seen*; and that in one sentence."""
    changed = []
    if sent.isn not in (None, seen.isn):
        changed.append("sequence numbers")
    if not _same_tsval(sent, seen):
        changed.append("timestamps" if seen.tsval is not None else "timestamps (it takes them away)")
    if changed:
        harm = "no knock gets through" if changed[0] == "sequence numbers" else "no knock of scheme knock gets through"
        return Verdict.REWRITTEN, f"something on the way rewrites {' and '.join(changed)}: {harm}"
    if sent.isn is None:
        return Verdict.UNKNOWN, (
            "timestamps arrive as they were sent; whether sequence numbers do needs CAP_NET_ADMIN to find out; "
            "run it as root"
        )
    stamps = "and timestamps " if sent.tsval is not None else "(timestamps are off here) "
    return Verdict.UNTOUCHED, f"sequence numbers {stamps}arrive as they were sent: nothing on the way rewrites them"


def _same_tsval(sent: Sent, seen: Seen) -> bool:
    if sent.tsval is None or seen.tsval is None:
        return sent.tsval is seen.tsval
    return (seen.tsval - sent.tsval + sent.late_ms) % 2**32 <= sent.late_ms


def write_answer(seen: Seen) -> bytes:
    """The line that a reflector says."""
    return f"torknock reflect isn={seen.isn} tsval={'none' if seen.tsval is None else seen.tsval}\n".encode("ascii")


def parse_answer(octets: bytes) -> Seen:
    """What a reflector has said. Raises `PathUnknown`."""
    found = _ANSWER.fullmatch(octets)
    if found is None or any(word != b"none" and int(word) >= 2**32 for word in found.groups()):
        raise PathUnknown(_NO_REFLECTOR)
    return Seen(int(found[1]), None if found[2] == b"none" else int(found[2]))


def reflect(reactor: IReactor, host: str, port: int) -> IListeningPort:
    """A reflector at *host*, an IP literal, and *port*, 0 for any. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        listener.bind((host, port))
        listener.listen()
        syns = SavedSYNs(listener.getsockname()[1])
        factory: Factory[_Reflection] = Factory.forProtocol(lambda: _Reflection(syns))
        factory.noisy = False
        listening: IListeningPort = reactor.adoptStreamPort(listener.fileno(), family, factory)
    return listening


class _Reflection(Protocol):
    """A connection that is told its SYN. It lasts no longer than that takes, and nothing is read."""

    transport: Any

    def __init__(self, syns: SavedSYNs) -> None:
        self._syns = syns

    def connectionMade(self) -> None:
        if (syn := self._syns.syn(self.transport.getHandle())) is not None:
            self.transport.write(write_answer(Seen(syn.isn, syn.tsval)))
        self.transport.loseConnection()


async def ask(reactor: IReactor, host: str, port: int, isn: int) -> tuple[Sent, Seen]:
    """What was sent to the reflector at *host*, an IP literal, and *port*, and what it saw.

    *isn* is a fresh number of 1..2**32-1. Without CAP_NET_ADMIN the ISN is the kernel's, unknown.
    Raises `PathUnknown`.
    """
    try:
        connect = _knock if may_administer_network() else _connect
        sent, answer = await connect(reactor, host, port, isn)
    except (TimeoutError, ConnectError, CannotKnock, OSError) as error:
        raise PathUnknown(_why(error)) from error
    try:
        return sent, parse_answer(await answer.octets.addTimeout(TIMEOUT, reactor))
    except TimeoutError:
        if answer.transport is not None:
            answer.transport.loseConnection()
        raise PathUnknown(_NO_REFLECTOR) from None


def _why(error: Exception) -> str:
    if isinstance(error, (TimeoutError, ConnectTimeout, TCPTimedOutError)):
        return (
            "no connection came about: nothing listens there, or something on the way swallows it, or breaks the "
            "handshake by rewriting sequence numbers in one direction alone"
        )
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused: no reflector listens there, or something on the way forbids it"
    if isinstance(error, OSError) and error.errno == errno.EAFNOSUPPORT:
        return f"no connection came about: {NO_IPV6}"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"no connection came about: {said}"


@define
class _Answer(Protocol):
    """Collects what a reflector says."""

    octets: Deferred[bytes] = field(factory=Deferred)
    _heard: bytes = b""

    def dataReceived(self, data: bytes) -> None:
        self._heard += data
        if len(self._heard) > _ANSWER_AT_MOST and self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.octets.called:
            self.octets.callback(self._heard)


async def _knock(reactor: IReactor, host: str, port: int, isn: int) -> tuple[Sent, _Answer]:
    answer = _Answer()
    before_ns = time.monotonic_ns()
    with await RepairDialer(reactor).dial(host, port, isn).addTimeout(TIMEOUT, reactor) as connected:
        reactor.adoptStreamConnection(connected.fileno(), connected.family, _only(answer))
        return _sent(connected, before_ns, isn), answer


async def _connect(reactor: IReactor, host: str, port: int, _: int) -> tuple[Sent, _Answer]:
    endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    answer = _Answer()
    before_ns = time.monotonic_ns()
    await endpoint(reactor, host, port, timeout=TIMEOUT).connect(_only(answer))
    return _sent(answer.transport.getHandle(), before_ns, None), answer  # type: ignore[union-attr]  # it is connected


def _sent(connected: socket.socket, before_ns: int, isn: int | None) -> Sent:
    """What left at *before_ns* or later: a SYN that was sent twice has two TSvals, and either may be the one seen."""
    tsval = clock(connected) + 1  # its lowest bit may be missing
    late_ms = (time.monotonic_ns() - before_ns) // 1_000_000 + 2
    return Sent(isn, tsval % 2**32, late_ms) if stamps() else Sent(isn, None)


def _only(answer: _Answer) -> Factory[_Answer]:
    factory: Factory[_Answer] = Factory.forProtocol(lambda: answer)
    factory.noisy = False
    return factory
