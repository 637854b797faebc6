"""Segments of one's own making, sent past the kernel's TCP: a prober, a replayer, a flooder.

They come from an address that no interface holds (`Host.silent`), so the kernel of the sending host neither changes
them nor answers the answers. What comes back is a `Reply`, which says nothing of this one exchange (ports, sequence
numbers): two ports behave alike if their replies are equal.

    closed = probe(lab.host("probe"), bridge.address, 9, Control.FIN)
    assert closed == probe(lab.host("probe"), bridge.address, 443, Control.FIN)

Needs root.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.support.capture import (
    SOL_PACKET,
    Capture,
    Control,
    Packet,
    Seen,
    build,
    checksum,
)
from tests.support.netns import Host

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD  # linux/if_ether.h
PACKET_VNET_HDR, PACKET_QDISC_BYPASS = 15, 20  # linux/if_packet.h
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1  # linux/virtio_net.h

LINUX_SYN_OPTIONS = bytes.fromhex("020405b4 0402 080a 00000000 00000000 01 03030a")
"""Those of a Linux client's SYN, in its order: MSS, SACK permitted, timestamps (0), no-operation, window scale."""

MATRIX: dict[str, dict[str, Any]] = {
    "SYN": {"control": Control.SYN, "options": LINUX_SYN_OPTIONS},
    "SYN without options": {"control": Control.SYN},
    "SYN dscp": {"control": Control.SYN, "tos": 0x48},
    "SYN ecn": {"control": Control.SYN | Control.ECE | Control.CWR},
    "SYN ect0": {"control": Control.SYN, "tos": 0x02},
    "SYN data": {"control": Control.SYN, "payload": b"GET /"},
    "SYN no DF": {"control": Control.SYN, "ip_flags": 0},
    "ACK": {"control": Control.ACK},
    "ACK dscp": {"control": Control.ACK, "tos": 0x48},
    "FIN": {"control": Control.FIN},
    "NULL": {"control": Control(0)},
    "XMAS": {"control": Control.FIN | Control.PSH | Control.URG},
    "URG": {"control": Control.URG},
    "SYN/FIN": {"control": Control.SYN | Control.FIN},
    "Maimon": {"control": Control.FIN | Control.ACK},
    "SYN/ACK": {"control": Control.SYN | Control.ACK},
    "PSH/ACK data": {"control": Control.PSH | Control.ACK, "payload": b"x" * 20},
    "RST": {"control": Control.RST},
    "bad checksum": {"control": Control.SYN, "bad_checksum": True},
}
"""What a scanner tries, by name: keyword arguments of `probe`."""

_source_ports = itertools.cycle(range(20000, 32768))  # below the kernel's own ephemeral ports


@dataclass(frozen=True, slots=True)
class Reply:
    """What one probe was answered, without what differs from probe to probe. *rule*s are in words."""

    control: Control
    ttl: int
    identification: int
    ip_flags: int
    tos: int
    flow_labelled: bool
    """Whether IPv6's flow label is other than 0."""
    seq_rule: str
    """``0``, ``probe ack``, or ``own``."""
    ack_rule: str
    """``0``, ``probe end`` (its seq and all it took of the sequence space), or ``other``."""
    window: int
    total_length: int
    option_kinds: tuple[int, ...] = ()
    icmp: tuple[int, int] | None = None
    """Type and code, if the answer is an ICMP error; all else is then 0."""


def source_port() -> int:
    """A port that no other probe of this process used lately."""
    return next(_source_ports)


def send(host: Host, datagram: bytes) -> None:
    """Put *datagram*, from the IP header on, on the host's wire to the hub, exactly as it is."""
    protocol = ETH_P_IP if datagram[0] >> 4 == 4 else ETH_P_IPV6
    with host.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    with wire:
        wire.sendto(datagram, (host.interface, protocol, 0, 0, bytes.fromhex(host.gateway_mac.replace(":", ""))))


def packet_from(host: Host, target: str, port: int, **fields: Any) -> Packet:
    """A packet from the host's silent address to *target*; *fields* are `Packet`'s. A SYN unless told otherwise."""
    fresh = {"source_port": source_port(), "seq": secrets.randbits(32)}
    if fields.get("control", Control.SYN) & Control.ACK:
        fresh["ack"] = secrets.randbits(32)
    ends = {"destination": target, "destination_port": port, "source": host.silent}
    if ":" in target:
        ends |= {"source": host.silent6, "ip_flags": 0}
    return Packet(**{**ends, **fresh, **fields})


def exchange(
    host: Host, packet: Packet, patience: float = 0.1, timeout: float = 5.0, bad_checksum: bool = False
) -> Seen | None:
    """Send *packet* from the host and return what answers it first, TCP or an ICMP error; None for silence.

    An echo request goes the same way right behind it. Once that is answered, *patience* seconds decide that there is
    silence (for a gate that judges in user space, give it more); *timeout* seconds if not even that is answered.
    """
    octets = build(packet, bad_checksum)
    quoted = build(packet, bad_checksum)[packet.total_length - len(packet.payload) - len(packet.options) - 20 :][:8]
    mark = secrets.token_bytes(16)

    def answers(seen: Seen) -> bool:
        if seen.outgoing:
            return False
        if seen.packet is None:
            return _icmp(seen) is not None and quoted in seen.raw
        ends = ("source", "destination", "source_port", "destination_port")
        back = packet.reversed()
        return all(getattr(seen.packet, end) == getattr(back, end) for end in ends)

    with Capture(host) as capture:
        send(host, octets)
        send(host, echo_request(packet, mark))
        try:
            first = capture.wait_seen(lambda seen: answers(seen) or (not seen.outgoing and mark in seen.raw), timeout)
            return first if answers(first) else capture.wait_seen(answers, patience)
        except TimeoutError:
            return None


def probe(host: Host, target: str, port: int, control: Control = Control.SYN, **options: Any) -> Reply | None:
    """What one segment to *port* of *target* is answered; None for silence.

    *options* are `Packet`'s fields (``tos=0x48``) and `exchange`'s (``bad_checksum=True``, ``patience``).
    """
    how = {name: options.pop(name) for name in ("patience", "timeout", "bad_checksum") if name in options}
    packet = packet_from(host, target, port, control=control, **options)
    seen = exchange(host, packet, **how)
    return None if seen is None else reply(packet, seen)


def replay(host: Host, captured: Packet, patience: float = 0.1, source: str | None = None) -> Reply | None:
    """What a captured segment is answered when this host sends it again, from an address of its own or from *source*.

    With ``source=captured.source`` all of it is the same; the answer is then seen only on the host with that address.
    """
    own = source or (host.silent6 if captured.version == 6 else host.silent)
    packet = replace(captured, source=own)
    seen = exchange(host, packet, patience)
    return None if seen is None else reply(packet, seen)


def reply(packet: Packet, seen: Seen) -> Reply:
    """The answer *seen* to *packet*, as a value to compare."""
    answer = seen.packet
    if answer is None:
        return Reply(Control(0), 0, 0, 0, 0, False, "0", "0", 0, 0, icmp=_icmp(seen))
    acks = bool(packet.control & Control.ACK)
    seq_rule = "0" if answer.seq == 0 else "probe ack" if acks and answer.seq == packet.ack else "own"
    end = (packet.seq + packet.length) % 2**32
    ack_rule = "probe end" if answer.control & Control.ACK and answer.ack == end else "other" if answer.ack else "0"
    return Reply(
        answer.control, answer.ttl, answer.identification, answer.ip_flags, answer.tos, answer.flow_label != 0,
        seq_rule, ack_rule, answer.window, answer.total_length, tuple(kind for kind, _ in answer.option_list),
    )  # fmt: skip


def _icmp(seen: Seen) -> tuple[int, int] | None:
    """Type and code of an ICMP error (RFC 792, RFC 4443 §2.1)."""
    raw = seen.raw
    if len(raw) >= 28 and raw[0] >> 4 == 4 and raw[9] == socket.IPPROTO_ICMP:
        start = (raw[0] & 15) * 4
        return (raw[start], raw[start + 1]) if raw[start] in (3, 4, 5, 11, 12) else None
    if len(raw) >= 48 and raw[0] >> 4 == 6 and raw[6] == socket.IPPROTO_ICMPV6 and raw[40] < 128:
        return raw[40], raw[41]
    return None


def echo_request(packet: Packet, mark: bytes) -> bytes:
    """An ICMP echo request that goes the way of *packet* (RFC 792, RFC 4443 §4.1)."""
    v4 = packet.version == 4
    family = socket.AF_INET if v4 else socket.AF_INET6
    ends = b"".join(socket.inet_pton(family, address) for address in (packet.source, packet.destination))
    message = bytearray(struct.pack("!BBHHH", 8 if v4 else 128, 0, 0, 1, 1) + mark)
    pseudo = b"" if v4 else ends + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    message[2:4] = struct.pack("!H", checksum(pseudo + message))
    if not v4:
        return struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 64) + ends + message
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, 64, socket.IPPROTO_ICMP, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + message


def fragments(datagram: bytes, size: int) -> list[bytes]:
    """An IPv4 *datagram* without options, cut into fragments of *size* octets, a multiple of 8 (RFC 791 §2.3)."""
    cut = []
    for start in range(20, len(datagram), size):
        header, part = bytearray(datagram[:20]), datagram[start : start + size]
        more = 0x2000 if start + size < len(datagram) else 0
        header[2:4], header[6:8] = struct.pack("!H", 20 + len(part)), struct.pack("!H", more | (start - 20) // 8)
        header[4:6], header[10:12] = struct.pack("!H", int.from_bytes(datagram[20:22])), bytes(2)
        header[10:12] = struct.pack("!H", checksum(header))
        cut.append(bytes(header) + part)
    return cut


def resets(host: Host) -> int:
    """How many RSTs *host* has sent."""
    counts = host.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in counts if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


class _IOVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("iov", ctypes.POINTER(_IOVec)),
        ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )  # fmt: skip


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint))


def flood(host: Host, target: str, port: int, seconds: float, threads: int = 1, batch: int = 512, **fields: Any) -> int:
    """Send SYNs to *port* as fast as this machine does, each with a random ISN and source port; how many were sent.

    *fields* are `Packet`'s, such as ``options=LINUX_SYN_OPTIONS``. Checksums are right.
    """
    template = packet_from(host, target, port, **fields)
    stop = time.monotonic() + seconds
    sent = [0] * threads
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for more in _batches(host, template, batch):
                sent[number] += more
                if time.monotonic() >= stop:
                    return
        except BaseException as error:  # noqa: BLE001  it is raised again in the caller's thread
            errors.append(error)

    workers = [threading.Thread(target=run, args=(number,), name="flood") for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return sum(sent)


def _batches(host: Host, template: Packet, batch: int) -> Iterator[int]:
    """Send *batch* frames at each step; the kernel writes the checksums (or leaves them to the veth's far end)."""
    octets = bytearray(build(template))
    tcp = len(octets) - len(template.payload) - len(template.options) - 20
    ends = octets[12:20] if template.version == 4 else octets[8:40]
    pseudo = bytes(ends) + struct.pack("!II", len(octets) - tcp, socket.IPPROTO_TCP)
    octets[tcp + 16 : tcp + 18] = struct.pack("!H", checksum(pseudo) ^ 0xFFFF)  # the kernel adds the segment's own sum
    protocol = ETH_P_IP if template.version == 4 else ETH_P_IPV6
    macs = bytes.fromhex(f"{host.gateway_mac}{host.mac}".replace(":", ""))
    virtio = struct.pack("=BBHHHH", VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, 14 + tcp, 16)
    frame = virtio + macs + struct.pack("!H", protocol) + octets
    size, start = len(frame), len(virtio) + 14 + tcp
    frames = bytearray(frame * batch)
    base = ctypes.addressof(ctypes.c_char.from_buffer(frames))
    vectors = (_IOVec * batch)(*(_IOVec(base + number * size, size) for number in range(batch)))
    messages = (_MMsgHdr * batch)()
    for message, vector in zip(messages, vectors, strict=True):
        message.hdr.iov, message.hdr.iovlen = ctypes.pointer(vector), 1
    libc = ctypes.CDLL(None, use_errno=True)
    with host.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with wire:
        wire.bind((host.interface, 0))
        wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        wire.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        while True:
            chance = os.urandom(batch * 6)
            for column, offset in enumerate((0, 1, 4, 5, 6, 7)):  # source port and SEG.SEQ
                frames[start + offset :: size] = chance[column * batch : (column + 1) * batch]
            done = libc.sendmmsg(wire.fileno(), messages, batch, 0)
            if done < 0 and (number := ctypes.get_errno()) != errno.ENOBUFS:
                raise OSError(number, f"sendmmsg: {os.strerror(number)}")
            yield max(done, 0)
