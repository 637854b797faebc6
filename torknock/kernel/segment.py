"""Raw octets -> IPv4 | IPv6 -> TCP segment, as protocols of `twisted.pair`.

The octets may come from an attacker. Names are RFC 791's, RFC 8200's and RFC 9293's.
"""

from __future__ import annotations

import enum
import socket
import struct
from dataclasses import dataclass

from twisted.internet.protocol import AbstractDatagramProtocol
from twisted.pair.ip import IPProtocol
from twisted.pair.raw import IRawDatagramProtocol, IRawPacketProtocol
from zope.interface import Interface, implementer

TCP = socket.IPPROTO_TCP
_END, _NO_OPERATION, _TIMESTAMPS = 0, 1, 8  # TCP options: RFC 9293 §3.2, RFC 7323 §3.2
_EXTENSIONS = frozenset({socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, socket.IPPROTO_DSTOPTS})


class BadDatagram(ValueError):
    """These octets are not one whole datagram of ours to judge; the text says which field is wrong."""


class Control(enum.IntFlag):
    """Control bits (RFC 9293 §3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


_OPENING = int(Control.SYN | Control.ACK | Control.RST | Control.FIN)


@dataclass(frozen=True, slots=True)
class Segment:
    """What is asked of a TCP header (RFC 9293 §3.1)."""

    source_port: int
    destination_port: int
    seq: int
    """SEG.SEQ; of a SYN, the sender's ISN."""
    control: Control
    tsval: int | None = None
    """The sender's timestamp (RFC 7323 §3.2); None without that option."""

    @property
    def opens(self) -> bool:
        """A SYN that asks for a connection: SYN set; ACK, RST, FIN clear."""
        return int(self.control) & _OPENING == Control.SYN


class ISegmentProtocol(Interface):
    """What stands on top of `TCPProtocol`."""

    def segmentReceived(segment: Segment, source: str, dest: str) -> None:  # noqa: N805  an interface has no self
        """*segment* came from the address *source* to the address *dest*."""


def parse_segment(octets: bytes) -> Segment:
    """Read a TCP header. Raises `BadDatagram` if *octets* is too short for what it claims to be."""
    if len(octets) < 20:
        raise BadDatagram(f"TCP header: {len(octets)} octets, at least 20 needed")
    source, destination, seq, _ack, offset, control = struct.unpack_from("!HHIIBB", octets)
    end = (offset >> 4) * 4
    if not 20 <= end <= len(octets):
        raise BadDatagram(f"TCP data offset {offset >> 4} words in {len(octets)} octets")
    return Segment(source, destination, seq, Control(control), _tsval(octets[20:end]))


def _tsval(options: bytes) -> int | None:
    """The first timestamp among *options*; where one is malformed they end, as they do for Linux (RFC 9293 §3.2)."""
    at = 0
    while at < len(options) and options[at] != _END:
        if options[at] == _NO_OPERATION:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if not 2 <= size <= len(options) - at:
            break
        if options[at] == _TIMESTAMPS and size == 10:
            return int.from_bytes(options[at + 2 : at + 6])
        at += size
    return None


def without_options(datagram: bytes) -> bytes:
    """The same IPv4 datagram with a 20-octet header and no link-layer padding (RFC 791 §3.1).

    The header checksum is left as it was. Raises `BadDatagram` for another IP version, a length
    that does not fit, and a fragment.
    """
    if len(datagram) < 20:
        raise BadDatagram(f"IPv4 header: {len(datagram)} octets, at least 20 needed")
    version_ihl, _tos, total_length, _id, fragment = struct.unpack_from("!BBHHH", datagram)
    header = (version_ihl & 0x0F) * 4
    if version_ihl >> 4 != 4 or header < 20 or not header <= total_length <= len(datagram):
        raise BadDatagram(f"IPv4 version/IHL {version_ihl:#04x}, total length {total_length} of {len(datagram)}")
    if fragment & 0x3FFF:  # more fragments, or an offset
        raise BadDatagram("IPv4 fragment")
    if header == 20 and total_length == len(datagram):
        return datagram
    length = struct.pack("!H", 20 + total_length - header)
    return b"\x45" + datagram[1:2] + length + datagram[4:20] + datagram[header:total_length]


def without_extensions(datagram: bytes) -> bytes:
    """The same IPv6 datagram without extension headers and link-layer padding (RFC 8200 §3, §4).

    Raises `BadDatagram` for another IP version, a length that does not fit, and a fragment.
    """
    if len(datagram) < 40:
        raise BadDatagram(f"IPv6 header: {len(datagram)} octets, at least 40 needed")
    payload_length, next_header = struct.unpack_from("!HB", datagram, 4)
    end = 40 + payload_length
    if datagram[0] >> 4 != 6 or end > len(datagram):
        raise BadDatagram(f"IPv6 version {datagram[0] >> 4}, payload length {payload_length} of {len(datagram) - 40}")
    start = 40
    while next_header in _EXTENSIONS:
        if start + 8 > end:
            raise BadDatagram("IPv6 extension header is cut short")
        next_header, length = datagram[start], datagram[start + 1]
        start += 8 + 8 * length
    if next_header == socket.IPPROTO_FRAGMENT:
        raise BadDatagram("IPv6 fragment")
    if start > end:
        raise BadDatagram("IPv6 extension header is longer than the datagram")
    fixed = datagram[:4] + struct.pack("!HB", end - start, next_header) + datagram[7:40]
    return fixed + datagram[start:end]


class IPv4Protocol(IPProtocol):
    """Twisted's `IPProtocol`, made safe for datagrams that an adversary wrote.

    Twisted's takes every header for 20 octets, keeps padding, and swaps the version and IHL
    nibbles (twisted#9037), so a SYN with IP options would be judged at the wrong offset.
    """

    def datagramReceived(  # type: ignore[override]  # twisted.pair's protocols share the name only
        self, data: bytes, partial: int, dest: object, source: object, protocol: object
    ) -> None:
        """Pass *data* up; raises `BadDatagram`, which the caller counts and drops."""
        super().datagramReceived(without_options(data), partial, dest, source, protocol)


@implementer(IRawPacketProtocol)
class IPv6Protocol(IPProtocol):
    """The sibling of `IPv4Protocol` for IPv6, which `twisted.pair` does not have."""

    def datagramReceived(  # type: ignore[override]  # twisted.pair's protocols share the name only
        self, data: bytes, partial: int, dest: object, source: object, protocol: object
    ) -> None:
        """Pass *data* up; raises `BadDatagram`, which the caller counts and drops.

        What IPv6 does not have (fragment fields, header length) is passed up as it would be for a
        datagram that is whole.
        """
        plain = without_extensions(data)
        first_word, payload_length, next_header, hop_limit = struct.unpack_from("!IHBB", plain)
        for upper in self.ipProtos.get(next_header, ()):
            upper.datagramReceived(
                data=plain[40:],
                partial=partial,
                source=socket.inet_ntop(socket.AF_INET6, plain[8:24]),
                dest=socket.inet_ntop(socket.AF_INET6, plain[24:40]),
                protocol=next_header,
                version=6,
                ihl=40,
                tos=first_word >> 20 & 0xFF,
                tot_len=40 + payload_length,
                fragment_id=0,
                fragment_offset=0,
                dont_fragment=True,
                more_fragments=False,
                ttl=hop_limit,
            )


@implementer(IRawDatagramProtocol)
class TCPProtocol(AbstractDatagramProtocol):
    """TCP on top of `IPv4Protocol` and `IPv6Protocol`, in the shape of `twisted.pair.rawudp`.

    With *verify* the checksum counts (RFC 9293 §3.1). A saved SYN cannot be verified: the kernel leaves its data out.
    """

    def __init__(self, verify: bool = False) -> None:
        self._verify = verify
        self._ports: dict[int, list[object]] = {}

    def addProto(self, num: int, proto: object) -> None:
        """Give segments to the destination port *num* to *proto*, an `ISegmentProtocol`."""
        if not 0 <= num < 2**16:
            raise TypeError("a port is 0..65535")
        self._ports.setdefault(num, []).append(ISegmentProtocol(proto))

    def datagramReceived(  # type: ignore[override]  # twisted.pair's protocols share the name only
        self, data: bytes, partial: int, source: str, dest: str, *_args: object, **_header: object
    ) -> None:
        """Pass the segment up; raises `BadDatagram`."""
        segment = parse_segment(data)
        if self._verify and not _checksum_holds(data, source, dest):
            raise BadDatagram("TCP checksum")
        for upper in self._ports.get(segment.destination_port, ()):
            ISegmentProtocol(upper).segmentReceived(segment, source, dest)


def _checksum_holds(octets: bytes, source: str, dest: str) -> bool:
    """Whether the TCP checksum over *octets* and the pseudo-header is right (RFC 9293 §3.1).

    A sum in one's complement is a remainder modulo 2^16 - 1.
    """
    family = socket.AF_INET6 if ":" in dest else socket.AF_INET
    pseudo = socket.inet_pton(family, source) + socket.inet_pton(family, dest) + struct.pack("!II", len(octets), TCP)
    return int.from_bytes(pseudo + octets + bytes(len(octets) % 2)) % 0xFFFF == 0
