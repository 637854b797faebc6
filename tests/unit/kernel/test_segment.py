"""Tests of torknock.kernel.segment: datagrams as friends and others make them."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.support.capture import Control as Bits
from tests.support.capture import Packet, build
from torknock.kernel.segment import (
    TCP,
    BadDatagram,
    Control,
    IPv4Protocol,
    IPv6Protocol,
    ISegmentProtocol,
    Segment,
    TCPProtocol,
    parse_segment,
)

V4 = Packet("192.0.2.1", "192.0.2.7", 40000, 443, seq=0xDEADBEEF, control=Bits.SYN, options=bytes.fromhex("020405b4"))
V6 = dataclasses.replace(V4, source="2001:db8::1", destination="2001:db8::7")
SYN = Segment(40000, 443, 0xDEADBEEF, Control.SYN)


@implementer(ISegmentProtocol)
class Listener:
    """Remembers what came up to port 443."""

    def __init__(self) -> None:
        self.heard: list[tuple[Segment, str, str]] = []

    def segmentReceived(self, segment: Segment, source: str, dest: str) -> None:
        self.heard.append((segment, source, dest))


def heard(octets: bytes) -> list[tuple[Segment, str, str]]:
    """What of the datagram in *octets* comes up to port 443."""
    listener, tcp = Listener(), TCPProtocol()
    tcp.addProto(443, listener)
    ip = IPv6Protocol() if octets[:1] and octets[0] >> 4 == 6 else IPv4Protocol()
    ip.addProto(TCP, tcp)
    ip.datagramReceived(octets, 0, None, None, None)
    return listener.heard


class StackTests(SynchronousTestCase):
    """IPv4 and IPv6, TCP on top."""

    def test_a_port_is_any_of_16_bits(self) -> None:
        """From 0 to 65,535; for another nothing would ever come."""
        for port in (0, 65_535):
            TCPProtocol().addProto(port, Listener())
        for port in (-1, 65_536):
            self.assertRaises(TypeError, TCPProtocol().addProto, port, Listener())

    def test_a_syn_comes_up(self) -> None:
        """With its ISN and both addresses."""
        self.assertEqual(heard(build(V4)), [(SYN, "192.0.2.1", "192.0.2.7")])
        self.assertEqual(heard(build(V6)), [(SYN, "2001:db8::1", "2001:db8::7")])

    def test_ip_options_are_not_taken_for_tcp(self) -> None:
        """Twisted's own `IPProtocol` would read the ports out of them."""
        octets = build(dataclasses.replace(V4, ip_options=b"\x94\x04\0\0"))
        self.assertEqual(heard(octets + bytes(6)), [(SYN, "192.0.2.1", "192.0.2.7")])

    def test_extension_headers_are_not_taken_for_tcp(self) -> None:
        """Hop-by-hop and destination options, of 8 and of 16 octets."""
        extensions = ((socket.IPPROTO_HOPOPTS, b"\0" * 7), (socket.IPPROTO_DSTOPTS, b"\1" + b"\0" * 14))
        octets = build(dataclasses.replace(V6, extensions=extensions))
        self.assertEqual(heard(octets), [(SYN, "2001:db8::1", "2001:db8::7")])

    def test_another_port_is_not_ours(self) -> None:
        """A connection to the hidden listener's own port finds nobody."""
        self.assertEqual(heard(build(dataclasses.replace(V4, destination_port=444))), [])

    def test_what_opens_is_a_syn_alone(self) -> None:
        """SYN set; ACK, RST, FIN clear; the other bits are the sender's own affair (protocol.md §2.3)."""
        for bits in range(256):
            segment = dataclasses.replace(SYN, control=Control(bits))
            asked = bits & (Control.SYN | Control.ACK | Control.RST | Control.FIN)
            self.assertEqual(segment.opens, asked == Control.SYN)


class TimestampTests(SynchronousTestCase):
    """The one option that is read."""

    TIMESTAMP = bytes.fromhex("080a 01020304 00000000")

    def tsval(self, options: bytes) -> int | None:
        padded = options + bytes(-len(options) % 4)
        return heard(build(dataclasses.replace(V4, options=padded)))[0][0].tsval

    def test_it_is_found_among_others(self) -> None:
        """In the order of Linux, or alone; the first counts."""
        for before in ("", "0101", "020405b4 0402", "020405b4"):
            self.assertEqual(self.tsval(bytes.fromhex(before) + self.TIMESTAMP), 0x01020304)
        self.assertEqual(self.tsval(self.TIMESTAMP + bytes.fromhex("080a ffffffff 00000000")), 0x01020304)

    def test_without_it_there_is_none(self) -> None:
        """Nor behind the end of the options, nor behind one that is malformed, nor with another length."""
        stops = ("00080a01020304", "0300080a01020304", "03ff080a01020304")
        for options in ("", "020405b4", "080601020304", "080a", *stops):
            self.assertIsNone(self.tsval(bytes.fromhex(options)))

    @given(st.binary(max_size=40))
    def test_any_options_are_read(self, options: bytes) -> None:
        """As the independent reader of the tests does."""
        packet = dataclasses.replace(V4, options=options + bytes(-len(options) % 4))
        self.assertEqual(heard(build(packet))[0][0].tsval, packet.tsval)


class ChecksumTests(SynchronousTestCase):
    """TCP's, where it is asked for."""

    def verified(self, octets: bytes) -> None:
        tcp = TCPProtocol(verify=True)
        ip = IPv6Protocol() if octets[0] >> 4 == 6 else IPv4Protocol()
        ip.addProto(TCP, tcp)
        ip.datagramReceived(octets, 0, None, None, None)

    @given(st.sampled_from([V4, V6]), st.binary(max_size=9), st.integers(1, 2**16 - 2))
    def test_right_is_right_and_wrong_is_refused(self, packet: Packet, payload: bytes, change: int) -> None:
        """Over IPv4 and IPv6, with data of any length."""
        octets = bytearray(build(dataclasses.replace(packet, payload=payload)))
        self.verified(bytes(octets))
        at = (20 if packet is V4 else 40) + 16
        right = int.from_bytes(octets[at : at + 2])
        octets[at : at + 2] = ((right + change) % 0xFFFF).to_bytes(2)
        self.assertRaises(BadDatagram, self.verified, bytes(octets))


class BadDatagramTests(SynchronousTestCase):
    """What an adversary may write."""

    def refused(self, octets: bytes) -> None:
        """It is refused in one line."""
        self.assertNotIn("\n", str(self.assertRaises(BadDatagram, heard, octets)))

    def test_cut_anywhere_it_is_refused(self) -> None:
        """No part of a datagram is taken for a whole one."""
        for octets in (build(V4), build(V6)):
            for end in range(1, len(octets)):
                self.refused(octets[:end])

    def test_fragments_are_refused(self) -> None:
        """Of a first fragment nobody knows what the rest is."""
        octets = bytearray(build(V4))
        for field in (b"\x20\x00", b"\x00\x01"):
            octets[6:8] = field
            self.refused(bytes(octets))
        self.refused(build(dataclasses.replace(V6, extensions=((socket.IPPROTO_FRAGMENT, b"\0" * 7),))))

    def test_lengths_that_do_not_fit_are_refused(self) -> None:
        """IHL, total length, payload length, data offset."""
        changes: tuple[tuple[Packet, int, int], ...] = (
            (V4, 0, 0x44), (V4, 0, 0x4F), (V4, 3, 19), (V4, 2, 1), (V4, 32, 0x40), (V4, 32, 0xF0),
            (V6, 5, 3), (V6, 4, 1), (V6, 0, 0x70), (V6, 52, 0x40), (V6, 52, 0xF0),
        )  # fmt: skip
        for packet, place, value in changes:
            octets = bytearray(build(packet))
            octets[place] = value
            with self.subTest(place=place, value=value):
                self.refused(bytes(octets))

    @given(st.binary(max_size=120))
    def test_any_octets_are_read_or_refused(self, octets: bytes) -> None:
        """Never another exception."""
        self.read_or_refused(heard, octets)
        self.read_or_refused(parse_segment, octets)

    @given(st.sampled_from([V4, V6]), st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255)), max_size=4))
    def test_any_mutation_is_read_or_refused(self, packet: Packet, changes: list[tuple[int, int]]) -> None:
        """What is nearly a SYN is the likelier attack."""
        octets = bytearray(build(packet))
        for place, value in changes:
            octets[place % len(octets)] = value
        self.read_or_refused(heard, bytes(octets))

    @staticmethod
    def read_or_refused(read: Callable[[bytes], object], octets: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            read(octets)
