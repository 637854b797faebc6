"""SYNs judged in user space: the kernel's NFQUEUE, as netlink messages (linux/netfilter/nfnetlink_queue.h).

What the judge admits goes on with another mark, everything else as it came; the ruleset knows what that means.

The order of events: SYNs are read together, in the order in which they wait, and judged together; nothing more is read
until the judge has answered, or its second is over. What may never happen: a SYN goes on with the mark without the
judge's word; one that was read waits for ever, also when the judge fails or the queue is stopped meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.interfaces import GateFailed
from torknock.kernel import netlink
from torknock.kernel.capability import NO_CAPABILITY
from torknock.kernel.interfaces import IReadingReactor
from torknock.kernel.segment import BadDatagram
from torknock.kernel.socket_options import SO_RCVBUFFORCE
from torknock.kernel.syn_reader import SYNReader
from torknock.protocol.syn import SYN, AskLater

_log = Logger()

_A_TURN = 256
"""So many SYNs are judged together before the reactor gets its turn."""

_JUDGED_WITHIN = 1.0
"""Seconds for a judge that needs time; then the SYNs are refused."""

_QUEUE_AT_MOST = 4096
_COPIED = 2048
"""Octets of a packet that are seen. A SYN that is longer is closed to."""

_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5  # linux/netlink.h
_PACKET, _VERDICT, _CONFIG, _VERDICT_BATCH = 0x300, 0x301, 0x302, 0x303  # NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_*
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5  # NFQA_CFG_*
_PACKET_HDR, _VERDICT_HDR, _MARK, _PAYLOAD = 1, 2, 3, 10  # NFQA_*
_CMD_BIND, _COPY_PACKET, _FAIL_OPEN = 1, 2, 1
_NF_ACCEPT = 1  # linux/netfilter.h: go on


@dataclass(frozen=True, slots=True)
class Queue:
    """A packet queue of the kernel's, as the ruleset fills it."""

    number: int
    port: int
    """The door's: SYNs to other ports are not judged."""
    mark: Callable[[int], int]
    """Makes the mark of a SYN that is admitted from the one with which it came."""


@implementer(IReadDescriptor)
class PacketQueue:
    """Reads *queue*, from `start` to `stop`, and asks *ask*; needs CAP_NET_ADMIN.

    A queue that is full lets SYNs go on as they came, and so does one without a reader.
    """

    def __init__(
        self, reactor: IReadingReactor, queue: Queue, ask: AskLater, connect: netlink.Connect = netlink.connect
    ) -> None:
        self._reactor = reactor
        self._queue = queue
        self._ask = ask
        self._connect = connect
        self._reader = SYNReader(queue.port, verify=True)
        self._netlink: netlink.INetlink | None = None
        self._judging: Deferred[None] | None = None

    @property
    def running(self) -> bool:
        """Whether SYNs are judged."""
        return self._netlink is not None

    def start(self) -> None:
        """Begin to judge; no more than that if it has begun. Raises `GateFailed`."""
        if self._netlink is not None:
            return
        try:
            opened = self._connect()
        except OSError as error:
            raise self._unreadable(error.strerror or error) from error
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
            opened.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            self._bind(opened)
            self._configure(opened, _CFG_PARAMS, struct.pack("!IB", _COPIED, _COPY_PACKET))
            self._configure(opened, _CFG_MAXLEN, struct.pack("!I", _QUEUE_AT_MOST))
            flag = struct.pack("!I", _FAIL_OPEN)
            self._configure(opened, _CFG_FLAGS, flag, netlink.attribute(_CFG_MASK, flag))
        except OSError as error:
            opened.close()
            why = NO_CAPABILITY if error.errno == errno.EPERM else error.strerror or error
            raise self._unreadable(why) from error
        except BaseException:
            opened.close()
            raise
        opened.settimeout(0)
        self._netlink = opened
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Judge nothing more. May be called again."""
        if self._netlink is not None:
            self._reactor.removeReader(self)
            self._netlink.close()
            self._netlink = None

    def _bind(self, opened: netlink.INetlink) -> None:
        try:
            self._configure(opened, _CFG_CMD, struct.pack("!BxH", _CMD_BIND, 0))
        except PermissionError as error:
            raise self._unreadable("another program reads it") from error

    def _configure(self, opened: netlink.INetlink, kind: int, value: bytes, more: bytes = b"") -> None:
        body = netlink.attribute(kind, value) + more
        flags = netlink.REQUEST | netlink.ACK
        netlink.tell(opened, netlink.message(_CONFIG, body, flags=flags, resource=self._queue.number))

    def _unreadable(self, why: object) -> GateFailed:
        return GateFailed(f"packet queue {self._queue.number} cannot be read: {why}")

    def fileno(self) -> int:
        """The netlink socket."""
        return -1 if self._netlink is None else self._netlink.fileno()

    def doRead(self) -> None:
        """Judge what waits, all of it together."""
        assert self._netlink is not None  # noqa: S101  the reactor reads what was added to it
        asked: list[tuple[SYN, int, int]] = []
        last = None
        for _ in range(_A_TURN):
            try:
                octets = self._netlink.recv(_COPIED + 1024)
            except BlockingIOError:
                break
            packet = _parse(octets)
            if packet is None:
                continue
            last, mark, datagram = packet
            with contextlib.suppress(BadDatagram):
                syn = self._reader.read(datagram)
                if syn is not None:
                    asked.append((syn, last, mark))
        if last is None:
            return
        waiting = [(packet_id, mark) for _, packet_id, mark in asked]
        answers: Sequence[bool] | Awaitable[Sequence[bool]] = ()
        try:
            answers = self._ask([syn for syn, _, _ in asked])
        finally:  # a judge that fails admits no SYN, and holds none up
            if isinstance(answers, Sequence):
                self._settle(self._netlink, waiting, answers, last)
        if not isinstance(answers, Sequence):
            self._reactor.removeReader(self)
            self._judging = Deferred.fromCoroutine(self._judged(self._netlink, waiting, answers, last))

    async def _judged(
        self,
        opened: netlink.INetlink,
        waiting: Sequence[tuple[int, int]],
        judging: Awaitable[Sequence[bool]],
        last: int,
    ) -> None:
        """Settle when the judge has answered, or its time is over; read on."""
        answers: Sequence[bool] = ()
        try:
            answers = await Deferred.fromCoroutine(_awaited(judging)).addTimeout(_JUDGED_WITHIN, self._reactor)
        except Exception as error:  # noqa: BLE001  a judge that fails admits no SYN, and holds none up
            _log.warn("knocks are refused: {reason}", reason=str(error) or "the judge does not answer")
        self._settle(opened, waiting, answers, last)
        if self._netlink is opened:
            self._reactor.addReader(self)

    def _settle(
        self, opened: netlink.INetlink, waiting: Sequence[tuple[int, int]], answers: Sequence[bool], last: int
    ) -> None:
        """Admit those of the *waiting*, (id, mark), that *answers* says, and let everything else up to *last* go on."""
        if opened.fileno() < 0:
            return
        for (packet_id, mark), admitted in zip(waiting, answers, strict=False):
            if admitted:
                marked = netlink.attribute(_MARK, struct.pack("!I", self._queue.mark(mark)))
                self._go_on(opened, _VERDICT, packet_id, marked)
        self._go_on(opened, _VERDICT_BATCH, last, b"")

    def _go_on(self, opened: netlink.INetlink, kind: int, packet_id: int, more: bytes) -> None:
        verdict = netlink.attribute(_VERDICT_HDR, struct.pack("!II", _NF_ACCEPT, packet_id))
        opened.send(netlink.message(kind, verdict + more, resource=self._queue.number))

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found the queue broken: it is closed, which leaves the door closed."""
        _log.failure("the packet queue broke; knocks are refused until the gate is opened again", failure=reason)
        self.stop()

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return "knock"


async def _awaited(judging: Awaitable[Sequence[bool]]) -> Sequence[bool]:
    return await judging


def _parse(octets: bytes) -> tuple[int, int, bytes] | None:
    """Id, mark and datagram of a queued packet; None for any other message."""
    received = next(netlink.messages(octets), None)
    if received is None or received.kind != _PACKET:
        return None
    packet_id, mark, datagram = None, 0, b""
    for kind, value in netlink.attributes(received.body):
        if kind == _PACKET_HDR and len(value) >= 4:
            packet_id = int.from_bytes(value[:4])
        elif kind == _MARK:
            mark = int.from_bytes(value[:4])
        elif kind == _PAYLOAD:
            datagram = value
    return None if packet_id is None else (packet_id, mark, datagram)
