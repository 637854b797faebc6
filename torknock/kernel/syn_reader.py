"""Datagram -> SYN, through `twisted.pair`."""

from __future__ import annotations

import socket

from zope.interface import implementer

from torknock.kernel.segment import TCP, IPv4Protocol, IPv6Protocol, ISegmentProtocol, Segment, TCPProtocol
from torknock.protocol.syn import SYN


@implementer(ISegmentProtocol)
class SYNReader:
    """Finds the SYNs that were sent to *port*; *verify* is whether their checksum counts."""

    def __init__(self, port: int, verify: bool) -> None:
        tcp = TCPProtocol(verify)
        tcp.addProto(port, self)
        self._ip = {4: IPv4Protocol(), 6: IPv6Protocol()}
        for ip in self._ip.values():
            ip.addProto(TCP, tcp)
        self._heard: SYN | None = None

    def read(self, datagram: bytes) -> SYN | None:
        """The SYN that *datagram* is; None if it is none, or to another port. Raises `BadDatagram`."""
        self._heard = None
        ip = self._ip[6 if datagram and datagram[0] >> 4 == 6 else 4]
        ip.datagramReceived(datagram, 0, None, None, None)
        return self._heard

    def segmentReceived(self, segment: Segment, source: str, dest: str) -> None:
        """See `ISegmentProtocol.segmentReceived`."""
        if segment.opens:
            address = socket.inet_pton(socket.AF_INET6 if ":" in dest else socket.AF_INET, dest)
            port = segment.destination_port
            self._heard = SYN(source, segment.source_port, address, port, segment.seq, segment.tsval)
