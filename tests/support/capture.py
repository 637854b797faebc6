"""Packets as they are on a wire: `Packet` is a TCP segment in its IP datagram, `Capture` collects what passes.

`parse` reads octets into a `Packet` and `build` writes them back; they know nothing of `segment`, so that
tests can hold one against the other. Needs root for `Capture` only.

    with Capture(lab.host("probe")) as capture:
        ...
        syn = capture.wait(lambda packet: packet.opens)
    answers = [packet for packet in capture.tcp(syn.destination_port) if packet.source == syn.destination]
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from tests.support.netns import Host, Namespace

SO_TIMESTAMPNS = 35  # asm-generic/socket.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ETH_P_ALL = 0x0003  # linux/if_ether.h
SOL_PACKET, PACKET_STATISTICS, PACKET_OUTGOING = 263, 6, 4  # linux/socket.h, linux/if_packet.h
_ICMPV6, _OF_NEIGHBOURS = 58, range(133, 138)  # RFC 4861 §4
_CHAINED = {0, 43, 60, 135}  # hop-by-hop, routing, destination options, mobility: RFC 8200 §4, RFC 6275 §6.1


class NotTCP(ValueError):
    """These octets are not one whole, unfragmented TCP segment over IPv4 or IPv6."""


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


DF = 2
"""Don't Fragment, in `Packet.ip_flags`."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A TCP segment (RFC 9293 §3.1) in an IPv4 (RFC 791 §3.1) or IPv6 (RFC 8200 §3) datagram.

    Addresses are text in the usual form, and say which IP it is. Of IPv6, *ttl* is the hop limit and *tos* the traffic
    class; *identification*, *ip_flags* and *ip_options* are IPv4's, *flow_label* and *extensions* IPv6's.
    """

    source: str
    destination: str
    source_port: int
    destination_port: int
    seq: int = 0
    ack: int = 0
    control: Control = Control.SYN
    window: int = 64240
    urgent: int = 0
    options: bytes = b""
    """TCP options as they stand, a multiple of 4 octets."""
    payload: bytes = b""
    ttl: int = 64
    tos: int = 0
    identification: int = 0
    ip_flags: int = DF
    ip_options: bytes = b""
    """A multiple of 4 octets."""
    flow_label: int = 0
    extensions: tuple[tuple[int, bytes], ...] = ()
    """IPv6 extension headers: protocol number, and what follows the header's first octet (7 octets, 15, ...)."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.source else 4

    @property
    def opens(self) -> bool:
        """A SYN that asks for a connection."""
        return self.control & (Control.SYN | Control.ACK | Control.RST | Control.FIN) == Control.SYN

    @property
    def length(self) -> int:
        """What the segment takes of the sequence space: SEG.LEN."""
        return len(self.payload) + bool(self.control & Control.SYN) + bool(self.control & Control.FIN)

    @property
    def total_length(self) -> int:
        """Octets of the whole datagram."""
        extensions = sum(1 + len(body) for _, body in self.extensions)
        header = 20 + len(self.ip_options) if self.version == 4 else 40 + extensions
        return header + 20 + len(self.options) + len(self.payload)

    @property
    def option_list(self) -> tuple[tuple[int, bytes], ...]:
        """TCP options in order: kind and data, with no-operations (1) and the end (0)."""
        found, rest = [], self.options
        while rest:
            kind, size = rest[0], 1
            if kind > 1:
                size = rest[1] if len(rest) > 1 else 0
                if not 2 <= size <= len(rest):
                    break
            found.append((kind, rest[2:size]))
            rest = rest[size:] if kind else b""
        return tuple(found)

    @property
    def tsval(self) -> int | None:
        """The sender's timestamp (RFC 7323 §3.2)."""
        times = [data for kind, data in self.option_list if kind == 8 and len(data) == 8]
        return int.from_bytes(times[0][:4]) if times else None

    def reversed(self) -> Packet:
        """The same packet from the other end."""
        return replace(
            self, source=self.destination, destination=self.source,
            source_port=self.destination_port, destination_port=self.source_port,
        )  # fmt: skip


def checksum(octets: bytes | bytearray) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + b"\0" * (len(octets) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + struct.pack("!HH" if len(source) == 4 else "!II", socket.IPPROTO_TCP, length)


def build(packet: Packet, bad_checksum: bool = False) -> bytes:
    """The datagram's octets; *bad_checksum* is TCP's. Raises `ValueError` if options are not whole words."""
    family = socket.AF_INET if packet.version == 4 else socket.AF_INET6
    source, destination = (socket.inet_pton(family, address) for address in (packet.source, packet.destination))
    if len(packet.options) % 4 or len(packet.ip_options) % 4 or len(packet.options) > 40 or len(packet.ip_options) > 40:
        raise ValueError("options are 0, 4, ... 40 octets")
    segment = bytearray(struct.pack(
        "!HHIIBBHHH", packet.source_port, packet.destination_port, packet.seq, packet.ack,
        (5 + len(packet.options) // 4) << 4, packet.control, packet.window, 0, packet.urgent,
    ) + packet.options + packet.payload)  # fmt: skip
    check = checksum(_pseudo_header(source, destination, len(segment)) + segment)
    segment[16:18] = struct.pack("!H", check ^ 0x5555 if bad_checksum else check)
    if packet.version == 4:
        header = bytearray(struct.pack(
            "!BBHHHBBH4s4s", 0x45 + len(packet.ip_options) // 4, packet.tos, packet.total_length, packet.identification,
            packet.ip_flags << 13, packet.ttl, socket.IPPROTO_TCP, 0, source, destination,
        ) + packet.ip_options)  # fmt: skip
        header[10:12] = struct.pack("!H", checksum(header))
        return bytes(header + segment)
    numbers = [number for number, _ in packet.extensions] + [socket.IPPROTO_TCP]
    chain = b"".join(bytes([after]) + body for (_, body), after in zip(packet.extensions, numbers[1:], strict=True))
    first, length = 6 << 28 | packet.tos << 20 | packet.flow_label, len(chain) + len(segment)
    header6 = struct.pack("!IHBB", first, length, numbers[0], packet.ttl) + source + destination
    return header6 + chain + bytes(segment)


def parse(octets: bytes) -> Packet:
    """The datagram in *octets*; what follows its end (padding) is left out. Raises `NotTCP`."""
    version = octets[0] >> 4 if octets else 0
    if version == 4:
        return _parse4(octets)
    if version == 6:
        return _parse6(octets)
    raise NotTCP(f"IP version {version}")


def _parse4(octets: bytes) -> Packet:
    if len(octets) < 20:
        raise NotTCP("short IPv4 header")
    vihl, tos, total, identification, fragment, ttl, protocol = struct.unpack_from("!BBHHHBB", octets)
    header = (vihl & 15) * 4
    if protocol != socket.IPPROTO_TCP or fragment & 0x3FFF or not 20 <= header <= total <= len(octets):
        raise NotTCP("not a whole TCP datagram")
    source, destination = (socket.inet_ntop(socket.AF_INET, octets[i : i + 4]) for i in (12, 16))
    packet = _parse_segment(octets[header:total], source, destination)
    return replace(
        packet, ttl=ttl, tos=tos, identification=identification, ip_flags=fragment >> 13, ip_options=octets[20:header]
    )


def _parse6(octets: bytes) -> Packet:
    if len(octets) < 40:
        raise NotTCP("short IPv6 header")
    first, length, number, ttl = struct.unpack_from("!IHBB", octets)
    rest = octets[40 : 40 + length]
    extensions = []
    while number in _CHAINED and len(rest) >= 8:
        size = (rest[1] + 1) * 8
        if size > len(rest):
            raise NotTCP("short IPv6 extension header")
        extensions.append((number, rest[1:size]))
        number, rest = rest[0], rest[size:]
    if number != socket.IPPROTO_TCP or len(octets) < 40 + length:
        raise NotTCP("not a whole TCP datagram")
    source, destination = (socket.inet_ntop(socket.AF_INET6, octets[i : i + 16]) for i in (8, 24))
    packet = _parse_segment(rest, source, destination)
    return replace(
        packet, ttl=ttl, tos=first >> 20 & 0xFF, flow_label=first & 0xFFFFF, ip_flags=0, extensions=tuple(extensions)
    )


def _parse_segment(octets: bytes, source: str, destination: str) -> Packet:
    if len(octets) < 20 or not 20 <= (octets[12] >> 4) * 4 <= len(octets):
        raise NotTCP("short TCP header")
    source_port, destination_port, seq, ack = struct.unpack_from("!HHII", octets)
    offset, control, window, _, urgent = struct.unpack_from("!BBHHH", octets, 12)
    header = (offset >> 4) * 4
    options, payload = octets[20:header], octets[header:]
    return Packet(
        source, destination, source_port, destination_port, seq, ack, Control(control), window, urgent, options, payload
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A datagram that passed an interface; *time_ns* is wall time, *raw* the octets from the IP header on."""

    time_ns: int
    interface: str
    outgoing: bool
    raw: bytes
    packet: Packet | None
    """None if it is not TCP, or not whole."""

    @property
    def stays(self) -> bool:
        """It never leaves the wire: IPv6's own talk of neighbours and multicast (RFC 4291 §2.5.6, §2.7, RFC 4861)."""
        if self.raw[0] >> 4 != 6:
            return False
        of_neighbours = self.raw[6] == _ICMPV6 and self.raw[40] in _OF_NEIGHBOURS
        return of_neighbours or self.raw[24:26] in (b"\xff\x02", b"\xfe\x80")

    @property
    def checksum_good(self) -> bool:
        """TCP's checksum is right; with offloads on it is not yet written when a packet leaves."""
        return self.packet is not None and self.raw[: self.packet.total_length] == build(self.packet)


class Capture:
    """All that passes *interface* of a namespace (of a host: its wire), from the start until `stop`.

    Nothing that passed before `seen` was read is missing there, unless `dropped` counts it.
    """

    def __init__(self, namespace: Namespace, interface: str | None = None, buffer: int = 1 << 26) -> None:
        if interface is None:
            interface = namespace.interface if isinstance(namespace, Host) else "lo"
        self.interface = interface
        self._seen: list[Seen] = []
        self._lock = threading.Lock()
        self._stopped = False
        self._stop = os.eventfd(0)
        self.dropped = 0
        """Packets that came faster than they were read."""
        with namespace.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # 0: nothing yet, bind says what
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.setblocking(False)
            self._socket.bind((interface, ETH_P_ALL))
            self._reader = threading.Thread(target=self._read, name=f"capture on {interface}", daemon=True)
            self._reader.start()
        except BaseException:
            self._socket.close()
            os.close(self._stop)
            raise

    @property
    def seen(self) -> tuple[Seen, ...]:
        """What passed so far, oldest first."""
        self._drain()
        return tuple(self._seen)

    def tcp(self, port: int | None = None) -> list[Packet]:
        """The TCP segments so far, to and from *port* if one is given."""
        packets = [seen.packet for seen in self.seen if seen.packet is not None]
        return [packet for packet in packets if port in (None, packet.source_port, packet.destination_port)]

    def wait(self, wanted: Callable[[Packet], bool], timeout: float = 10.0) -> Packet:
        """The first TCP segment that *wanted* is true for, perhaps one that is still to come. Raises `TimeoutError`."""
        found = self.wait_seen(lambda seen: seen.packet is not None and wanted(seen.packet), timeout).packet
        assert found is not None  # that was asked for
        return found

    def wait_seen(self, wanted: Callable[[Seen], bool], timeout: float = 10.0) -> Seen:
        """The first datagram that *wanted* is true for, perhaps one that is still to come. Raises `TimeoutError`."""
        deadline, looked_at = time.monotonic() + timeout, 0
        while True:
            late = time.monotonic() > deadline
            seen = self.seen
            for one in seen[looked_at:]:
                if wanted(one):
                    return one
            looked_at = len(seen)
            if late:
                raise TimeoutError(f"not among {looked_at} packets on {self.interface} in {timeout:.1f} s")
            time.sleep(0.001)

    def _drain(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            while self._socket.fileno() >= 0:
                octets, ancillary, _, sender = self._socket.recvmsg(1 << 17, 64)
                seconds, nanoseconds = next(
                    struct.unpack("qq", data) for _, kind, data in ancillary if kind == SO_TIMESTAMPNS
                )
                try:
                    packet = parse(octets)
                except NotTCP:
                    packet = None
                outgoing = sender[2] == PACKET_OUTGOING
                self._seen.append(Seen(seconds * 10**9 + nanoseconds, sender[0], outgoing, octets, packet))

    def _read(self) -> None:
        while self._stop not in select.select([self._socket.fileno(), self._stop], [], [])[0]:
            self._drain()

    def stop(self) -> None:
        """What passes from now on is not seen; what was seen stays. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        os.eventfd_write(self._stop, 1)
        self._reader.join()
        os.close(self._stop)
        self._drain()
        self.dropped = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
        with self._lock:
            self._socket.close()

    close = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
