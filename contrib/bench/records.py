"""The TLS records of the connections in a capture: direction, type, length, time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.capture import Control, Packet, Seen

CHANGE_CIPHER_SPEC, HANDSHAKE, DATA = 20, 22, 23
_HEADER = 5
INNER = 17
"""Octets by which a TLS 1.3 record is longer than what it holds: the type inside, and the tag."""


@dataclass(frozen=True, slots=True)
class Record:
    """A TLS record as an observer sees it."""

    time: float
    """Seconds from the SYN to the packet that completes the record."""
    from_client: bool
    kind: int
    length: int
    """As its header has it."""


@dataclass(slots=True)
class _Way:
    """One direction of a connection: what has arrived in order, and segments beyond a gap."""

    next: int | None = None
    octets: bytearray = field(default_factory=bytearray)
    early: dict[int, bytes] = field(default_factory=dict)

    def take(self, seq: int, payload: bytes) -> None:
        """A segment."""
        if self.next is None:
            return
        self.early[seq] = payload
        while (key := next((at for at in self.early if (self.next - at) % 2**32 < 2**31), None)) is not None:
            piece = self.early.pop(key)[(self.next - key) % 2**32 :]
            self.octets += piece
            self.next = (self.next + len(piece)) % 2**32

    def records(self) -> Iterable[tuple[int, int]]:
        """Kind and length of each record that is whole, once."""
        while len(self.octets) >= _HEADER:
            length = int.from_bytes(self.octets[3:5])
            if len(self.octets) < _HEADER + length:
                return
            yield self.octets[0], length
            del self.octets[: _HEADER + length]


def connections(seen: Iterable[Seen], port: int) -> dict[tuple[str, int], list[Record]]:
    """The records of each connection to *port*, by the client's address and port. Alerts are left out."""
    began: dict[tuple[str, int], int] = {}
    ways: dict[tuple[str, int, bool], _Way] = {}
    found: dict[tuple[str, int], list[Record]] = {}
    for one in seen:
        packet = one.packet
        if packet is None or port not in (packet.source_port, packet.destination_port):
            continue
        from_client = packet.destination_port == port
        client = _client(packet, from_client)
        if packet.opens and client not in began:
            began[client], found[client] = one.time_ns, []
        if client not in began:
            continue
        way = ways.setdefault((*client, from_client), _Way())
        if Control.SYN in packet.control:
            way.next = (packet.seq + 1) % 2**32
        elif packet.payload:
            way.take(packet.seq, packet.payload)
            for kind, length in way.records():
                if kind in (CHANGE_CIPHER_SPEC, HANDSHAKE, DATA):
                    found[client].append(Record((one.time_ns - began[client]) / 1e9, from_client, kind, length))
    return found


def _client(packet: Packet, from_client: bool) -> tuple[str, int]:
    return (packet.source, packet.source_port) if from_client else (packet.destination, packet.destination_port)


def after_handshake(records: list[Record]) -> list[Record]:
    """What follows the client's Finished, the first of its records that is encrypted."""
    for number, record in enumerate(records):
        if record.from_client and record.kind == DATA:
            return records[number + 1 :]
    return []
