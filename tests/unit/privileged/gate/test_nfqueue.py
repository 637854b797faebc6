"""Tests of torknock.privileged.gate.nfqueue with a kernel in memory: what is configured, judged and refused."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.capture import Control, Packet, build
from torknock.interfaces import GateFailed
from torknock.kernel.netlink import attribute, attributes, message, messages
from torknock.kernel.twins import MemoryNetlink, acknowledged
from torknock.privileged.gate.nfqueue import _CONFIG, _PACKET, _VERDICT, _VERDICT_BATCH, PacketQueue, Queue, _parse
from torknock.protocol.syn import SYN

HEADER = attribute(1, struct.pack("!IHBx", 7, 0x800, 1))
WHOLE = message(_PACKET, HEADER + attribute(3, struct.pack("!I", 9)) + attribute(10, b"a datagram"), resource=1)


def queued(number: int, mark: int, port: int = 443) -> bytes:
    """A SYN to *port* as the kernel queues it, with that id and *mark*."""
    syn = Packet("198.51.100.1", "192.0.2.7", source_port=5000, destination_port=port, seq=number, control=Control.SYN)
    body = attribute(1, struct.pack("!IHBx", number, 0x800, 1)) + attribute(3, struct.pack("!I", mark))
    return message(_PACKET, body + attribute(10, build(syn)))


class ParseTests(SynchronousTestCase):
    """Octets of netlink (linux/netfilter/nfnetlink_queue.h)."""

    def test_a_packet_has_an_id_a_mark_and_a_datagram(self) -> None:
        """Its id, its mark and its datagram."""
        self.assertEqual(_parse(WHOLE), (7, 9, b"a datagram"))

    def test_one_that_is_cut_off(self) -> None:
        """Wherever it is, nothing is raised; without an id there is no packet."""
        for end in range(len(WHOLE)):
            found = _parse(WHOLE[:end])
            self.assertTrue(found is None or found[0] == 7, end)
        self.assertIsNone(_parse(message(_PACKET, attribute(1, b""))))

    @given(st.binary(max_size=100))
    def test_any_octets_raise_nothing(self, octets: bytes) -> None:
        """Also behind the header of a packet."""
        _parse(octets)
        _parse(message(_PACKET, octets))


class _Readers(Clock):
    """A reactor that notes which readers it has."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


class QueueCase(SynchronousTestCase):
    """A queue whose kernel is in memory; SYNs with an even ISN are let in."""

    def setUp(self) -> None:
        self.reactor = _Readers()
        self.refused_kind: int | None = None
        self.code = errno.EPERM
        self.kernel = MemoryNetlink(self.answer)
        self.asked: list[list[int]] = []
        reactor = cast(Any, self.reactor)
        self.queue = PacketQueue(reactor, Queue(5, 443, lambda mark: mark | 0x100), self.judge, lambda: self.kernel)

    def answer(self, octets: bytes) -> Sequence[bytes]:
        [sent] = messages(octets)
        if sent.kind != _CONFIG:
            return ()
        [(kind, _), *_] = attributes(sent.body)
        return [acknowledged(self.code if kind == self.refused_kind else 0)]

    def judge(self, syns: Sequence[SYN]) -> Any:
        self.asked.append([syn.isn for syn in syns])
        return [syn.isn % 2 == 0 for syn in syns]

    def verdicts(self) -> list[tuple[int, int, int | None]]:
        """Kind, packet and new mark of what was decided."""
        told = []
        for octets in self.kernel.sent:
            [sent] = messages(octets)
            if sent.kind in (_VERDICT, _VERDICT_BATCH):
                found = dict(attributes(sent.body))
                decision, packet = struct.unpack("!II", found[2])
                self.assertEqual(decision, 1)  # NF_ACCEPT
                told.append((sent.kind, packet, int.from_bytes(found[3]) if 3 in found else None))
        return told


class StartTests(QueueCase):
    """What the kernel may refuse."""

    def test_the_queue_is_configured_and_read(self) -> None:
        """By its own number."""
        self.queue.start()
        self.assertTrue(self.queue.running)
        self.assertEqual(self.reactor.readers, [self.queue])
        self.assertEqual({struct.unpack_from("!H", sent, 18)[0] for sent in self.kernel.sent}, {5})
        self.queue.stop()
        self.assertEqual((self.reactor.readers, self.kernel.closed), ([], True))

    def test_another_program_reads_it(self) -> None:
        """The kernel refuses to bind the queue for a second time."""
        self.refused_kind = 1
        self.assertIn("another program reads it", str(self.assertRaises(GateFailed, self.queue.start)))
        self.assertTrue(self.kernel.closed)
        self.assertFalse(self.queue.running)

    def test_a_missing_capability(self) -> None:
        """It is not taken for another program."""
        self.kernel.option_refused = OSError(errno.EPERM, "Operation not permitted")
        self.assertIn("CAP_NET_ADMIN", str(self.assertRaises(GateFailed, self.queue.start)))
        self.assertTrue(self.kernel.closed)

    def test_a_kernel_without_the_queue(self) -> None:
        """Each step that it refuses is told, and the socket is closed."""
        for kind in (2, 3, 5):
            self.kernel.closed, self.refused_kind, self.code = False, kind, errno.EOPNOTSUPP
            self.assertIn("not supported", str(self.assertRaises(GateFailed, self.queue.start)).lower())
            self.assertTrue(self.kernel.closed)

    def test_no_netlink_socket_can_be_had(self) -> None:
        """As where a sandbox forbids the family."""

        def refused() -> MemoryNetlink:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

        queue = PacketQueue(cast(Any, self.reactor), Queue(5, 443, lambda mark: mark), self.judge, refused)
        self.assertIn("Address family", str(self.assertRaises(GateFailed, queue.start)))


class JudgingTests(QueueCase):
    """What becomes of the SYNs."""

    def setUp(self) -> None:
        super().setUp()
        self.queue.start()

    def test_what_is_let_in_has_a_mark(self) -> None:
        """Everything else goes on as it came, with one verdict for all."""
        self.kernel.waiting += [queued(number, 0x10) for number in (1, 2, 3, 4)]
        self.queue.doRead()
        self.assertEqual(self.asked, [[1, 2, 3, 4]])
        self.assertEqual(self.verdicts(), [(_VERDICT, 2, 0x110), (_VERDICT, 4, 0x110), (_VERDICT_BATCH, 4, None)])

    def test_what_is_no_syn_to_the_port_is_not_judged(self) -> None:
        """And does not wait."""
        self.kernel.waiting += [queued(2, 0, port=444), acknowledged()]
        self.queue.doRead()
        self.assertEqual((self.asked, self.verdicts()), ([[]], [(_VERDICT_BATCH, 2, None)]))

    def test_nothing_to_read(self) -> None:
        """No one is asked (EAGAIN)."""
        self.queue.doRead()
        self.assertEqual((self.asked, self.verdicts()), ([], []))

    def test_a_judge_that_does_not_answer_lets_no_one_in(self) -> None:
        """No SYN waits for longer than a second, and the queue is read again."""
        self.queue._ask = lambda _syns: Deferred()
        self.kernel.waiting.append(queued(2, 0))
        self.queue.doRead()
        self.assertEqual((self.reactor.readers, self.verdicts()), ([], []))
        self.reactor.advance(1)
        self.assertEqual((self.reactor.readers, self.verdicts()), ([self.queue], [(_VERDICT_BATCH, 2, None)]))

    def test_a_queue_that_ends_while_judged(self) -> None:
        """Nothing is said to a socket that is closed."""
        answer: Deferred[Sequence[bool]] = Deferred()
        self.queue._ask = lambda _syns: answer
        self.kernel.waiting.append(queued(2, 0))
        self.queue.doRead()
        self.reactor.readers.append(self.queue)
        self.queue.stop()
        answer.callback([True])
        self.assertEqual((self.reactor.readers, self.verdicts()), ([], []))
