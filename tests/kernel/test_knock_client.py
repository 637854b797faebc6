"""Our client of scheme `knock` against a judge that knows knock.md and nothing of torknock.

The judge looks at the SYNs on the wire, and computes their ISNs with an MD5 of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import socket
import struct
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.capture import Capture, Packet
from tests.support.dialers import DialerOf
from tests.support.knocks import as_it_is
from tests.support.netns import Lab
from torknock.channel.raw import Raw
from torknock.client import rounds
from torknock.client.budget import SYNS
from torknock.client.connection import BridgeEndpoint, Destination, named
from torknock.client.deferred_dial import DialOnFirstBytes
from torknock.client.round_errors import BridgeSilent
from torknock.client.stealth import StealthKnocker
from torknock.interfaces import CannotKnock, Slipped
from torknock.privileged.dial.timestamp import NOT_HELD_BACK
from torknock.protocol.bridge_line import Channel, Line, Scheme

reactor: Any = _reactor

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

PORT = 4242
SECRET = b"Magic secret string"
LINE = Line(secret=SECRET, pin=None, scheme=Scheme.KNOCK, channel=Channel.RAW)

SHIFTS = (7, 12, 17, 22) * 4 + (5, 9, 14, 20) * 4 + (4, 11, 16, 23) * 4 + (6, 10, 15, 21) * 4
WORDS = tuple(
    index
    for step, start in ((1, 0), (5, 1), (3, 5), (7, 0))
    for index in ((step * i + start) % 16 for i in range(16))
)  # fmt: skip


def compress(state: bytes, block: bytes) -> tuple[int, int, int, int]:
    """One step of MD5 (RFC 1321 §3.4): the four words after *block*."""
    a, b, c, d = start = struct.unpack("<4I", state)
    words = struct.unpack("<16I", block)
    for i in range(64):
        mixed = (b & c | ~b & d, d & b | ~d & c, b ^ c ^ d, c ^ (b | ~d & 0xFFFFFFFF))[i // 16]
        total = (a + mixed + words[WORDS[i]] + int(2**32 * abs(math.sin(i + 1)))) & 0xFFFFFFFF
        a, d, c, b = d, c, b, (b + (total << SHIFTS[i] | total >> 32 - SHIFTS[i])) & 0xFFFFFFFF
    first, second, third, fourth = ((old + new) & 0xFFFFFFFF for old, new in zip(start, (a, b, c, d), strict=True))
    return first, second, third, fourth


def md5(message: bytes) -> bytes:
    """RFC 1321."""
    padded = message + b"\x80" + bytes((55 - len(message)) % 64) + struct.pack("<Q", 8 * len(message))
    state = bytes.fromhex("0123456789abcdeffedcba9876543210")
    for at in range(0, len(padded), 64):
        state = struct.pack("<4I", *compress(state, padded[at : at + 64]))
    return state


def rightful(syn: Packet, payload: bytes | None) -> int:
    """The ISN that a listener of TCP Stealth wants of *syn* (knock.md)."""
    secret = SECRET.ljust(64, b"\0")
    half = 0
    for (word,) in struct.iter_unpack("!H", b"" if payload is None else md5(secret + payload)):
        half ^= word
    family = socket.AF_INET6 if syn.version == 6 else socket.AF_INET
    state = bytearray(socket.inet_pton(family, syn.destination).ljust(16, b"\0"))
    for at, field in ((4, half.to_bytes(2)), (8, (syn.tsval or 0).to_bytes(4)), (12, syn.destination_port.to_bytes(2))):
        for offset, octet in enumerate(field):
            state[at + offset] ^= octet
    a, b, c, d = compress(bytes(state), secret)
    return a ^ b ^ c ^ d if payload is None else (a ^ b ^ c ^ d) & 0xFFFF0000 | half


class Hears(Protocol):
    """Says *says*, piece by piece, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard.callback(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class JudgeTests(TestCase):
    """SYNs on the wire, held against the draft."""

    skip = needs_root

    def setUp(self) -> None:
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
        self.listeners: dict[str, socket.socket] = {}
        for address, family in ((self.bridge.address, socket.AF_INET), (self.bridge.address6, socket.AF_INET6)):
            with self.bridge.enter():
                self.listeners[address] = socket.create_server((address, PORT), family=family)
            self.addCleanup(self.listeners[address].close)
        self.capture = Capture(self.client)
        self.addCleanup(self.capture.stop)
        self.patch(rounds, "PAUSES", ((0.0, 0.0), (0.3, 1.0), (0.3, 1.0)))
        self.knocker = self.another_knocker()

    def another_knocker(self) -> StealthKnocker:
        """One that has sent nothing yet."""
        return StealthKnocker(DialerOf(self.client), reactor, random.SystemRandom())

    def test_the_judge_gives_the_answers_of_the_draft(self) -> None:
        """It gives the answers of the draft."""
        four = Packet("192.0.2.1", "192.18.42.42", 1, 4242, options=bytes.fromhex("0101080a 11223344 00000000"))
        six = Packet("2001:db8::1", "2001:db8::2a:2a", 1, 4242, options=four.options)
        protected = b"Protected payload goes here."
        self.assertEqual(
            [rightful(syn, payload) for syn in (six, four) for payload in (None, protected)],
            [1227073602, 988151702, 3991540517, 559153046],
        )

    def judged(self, port: int, payload: bytes | None = None) -> Packet:
        """The SYN of the connection from *port*, after it was judged, and every slipped one left aside."""
        [syn] = [packet for packet in self.capture.tcp(PORT) if packet.opens and packet.source_port == port]
        self.assertEqual(syn.seq, rightful(syn, payload))
        return syn

    @staticmethod
    def first_to_speak(listener: socket.socket) -> tuple[socket.socket, tuple[str, int], bytes]:
        """The first connection not closed at once, as one is whose SYN slipped; its address, and what it sends."""
        while True:
            accepted, peer = listener.accept()
            if heard := accepted.recv(100):
                return accepted, peer, heard
            accepted.close()

    async def test_the_isn_fits_the_tsval_on_the_wire(self) -> None:
        """The ISN fits the TSval that is on the wire, over IPv4 and IPv6, with each kind of timestamp and with none."""
        for timestamps in (1, 2, 0):
            self.client.sysctl("net.ipv4.tcp_timestamps", timestamps)
            for host in self.listeners:
                for _ in range(5):
                    knocked = None
                    while knocked is None:
                        with contextlib.suppress(BridgeSilent):  # on a busy host every SYN of a round may slip
                            knocked = await self.another_knocker().knock(LINE, host, PORT, as_it_is)
                    self.addCleanup(knocked.socket.close)
                    syn = self.judged(knocked.socket.getsockname()[1])
                    self.assertEqual(syn.seq, knocked.isn)
                    self.assertEqual(syn.tsval is None, timestamps == 0)

    async def linked(self, host: str) -> Hears:
        """A link to *host* whose first octets are known, and whose ISN covers 20 of them."""
        link, knocker = Hears(), self.another_knocker()

        def dialled(payload: bytes) -> BridgeEndpoint:
            return BridgeEndpoint(reactor, knocker.covering(payload), Raw(), Destination(LINE, host, PORT))

        factory: Factory[Hears] = Factory.forProtocol(itertools.repeat(link).__next__)
        before = len(self.capture.tcp())
        await DialOnFirstBytes(20, named(host, PORT), dialled).connect(factory)
        assert link.transport is not None
        link.transport.write(b"the first octets ")
        self.assertEqual(len(self.capture.tcp()), before)
        link.transport.write(b"of tor, and more")
        return link

    async def test_what_the_isn_covers_comes_in_one_segment(self) -> None:
        """The bridge is dialled once enough is known; the octets that the ISN covers come in one segment."""
        for host, listener in self.listeners.items():
            accepting = deferToThread(self.first_to_speak, listener)
            while not accepting.called:  # on a busy host every SYN of a round may slip
                link = await self.linked(host)
                while not (accepting.called or link.lost.called):
                    await deferLater(reactor, 0.01)
            accepted, peer, heard = await accepting
            with accepted:
                self.assertEqual(heard, b"the first octets of tor, and more")
                syn = self.judged(peer[1], b"the first octets of ")
                first = next(packet for packet in self.capture.tcp(peer[1]) if packet.payload)
                self.assertEqual((first.payload[:20], first.seq), (b"the first octets of ", (syn.seq + 1) % 2**32))
                accepted.sendall(b"welcome")
                self.assertEqual(await link.heard, b"welcome")
            assert link.transport is not None
            link.transport.loseConnection()

    async def test_each_unanswered_syn_has_its_own_isn_and_port(self) -> None:
        """Each SYN that nobody answers has an ISN of its own, and a port of its own, and is right."""
        for host in (self.bridge.silent, self.bridge.silent6):
            right = False
            while not right:  # on a busy host every SYN of a round may slip
                before = len(self.capture.seen)
                with self.assertRaises(BridgeSilent):
                    await self.another_knocker().knock(LINE, host, PORT, as_it_is)
                seen = [one.packet for one in self.capture.seen[before:] if one.packet and one.packet.opens]
                first = {one.source_port: one for one in reversed(seen) if one.destination == host}
                self.assertIn(len(first), range(1, SYNS + 1))
                self.assertEqual(len(first), len({syn.seq for syn in first.values()}))
                right = any(syn.seq == rightful(syn, None) for syn in first.values())

    async def test_a_syn_that_is_taken_has_the_tsval_of_its_isn(self) -> None:
        """A SYN that the dialer takes for good has the TSval that its ISN was made for; nothing else is sent."""
        loopback = Capture(self.client, "lo")
        self.addCleanup(loopback.stop)
        dialer = DialerOf(self.client)
        for host in self.listeners:
            stamps: list[int] = []

            def choose(tsval: int, stamps: list[int] = stamps) -> int:
                stamps.append(tsval)
                return len(stamps)

            good = set()
            for _ in range(50):
                try:
                    dialled = await dialer.dial_stamped(host, PORT, choose)
                except Slipped:
                    continue
                self.addCleanup(dialled.socket.close)
                self.assertEqual((dialled.isn, dialled.tsval), (len(stamps), stamps[-1]))
                good.add(len(stamps))
            syns = [packet for packet in self.capture.tcp(PORT) if packet.opens and packet.destination == host]
            sent = [syn.seq for syn in syns]
            self.assertEqual(len(sent), len(set(sent)))
            self.assertLessEqual(good, set(sent))  # what slipped before its SYN left has none
            self.assertLessEqual(set(sent), set(range(1, len(stamps) + 1)))
            for syn in syns:
                if syn.seq in good:
                    self.assertEqual(syn.tsval, stamps[syn.seq - 1])
            self.assertTrue(good)
        self.assertEqual(loopback.tcp(), [])

    async def test_a_syn_with_isn_0_does_not_leave(self) -> None:
        """A kernel cannot be asked for ISN 0: such a SYN does not leave."""
        with self.assertRaises(Slipped):
            await DialerOf(self.client).dial_stamped(self.bridge.address, PORT, lambda _: 0)
        self.assertEqual(self.capture.tcp(), [])

    async def test_a_kernel_that_holds_no_syn_back(self) -> None:
        """What is missing is said, and not a packet leaves."""
        self.client.sysctl("net.ipv4.tcp_fastopen", 0)
        for host in self.listeners:
            with self.assertRaises(CannotKnock) as cannot:
                await self.knocker.knock(LINE, host, PORT, as_it_is)
            self.assertEqual(str(cannot.exception), NOT_HELD_BACK)
        self.assertEqual(self.capture.tcp(), [])

    async def test_a_rst_is_followed_by_another_isn(self) -> None:
        """A RST ends the attempt; the next one has another ISN, and there are few."""
        refused = False
        while not refused:  # on a busy host every SYN of a round may slip
            before = len(self.capture.seen)
            with self.assertRaises(BridgeSilent) as silent:
                await self.another_knocker().knock(LINE, self.bridge.address, PORT + 1, as_it_is)
            seen = [one.packet for one in self.capture.seen[before:] if one.packet and one.packet.opens]
            self.assertIn(len(seen), range(1, SYNS + 1))
            self.assertEqual(len(seen), len({syn.seq for syn in seen}))
            refused = silent.exception.refused
