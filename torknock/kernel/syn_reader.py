"""Datagram -> SYN, through `twisted.pair`; and the SYN that the kernel has saved of a connection."""

from __future__ import annotations

import socket

from twisted.logger import Logger
from zope.interface import implementer

from torknock.kernel.segment import TCP, BadDatagram, IPv4Protocol, IPv6Protocol, ISegmentProtocol, Segment, TCPProtocol
from torknock.kernel.socket_options import TCP_SAVED_SYN
from torknock.protocol.syn import SYN

_log = Logger()

_SAVED_AT_MOST = 512
"""Octets of IP and TCP headers, options and IPv6 extension headers included, that are read of a saved SYN."""


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


class SavedSYNs:
    """Reads the SYNs that the kernel has saved (TCP_SAVE_SYN), those that were sent to *port*."""

    def __init__(self, port: int) -> None:
        self._reader = SYNReader(port, verify=False)  # the kernel has verified it, and saves no data

    def syn(self, accepted: socket.socket) -> SYN | None:
        """The SYN that opened *accepted*; None if it was to another port, or none was saved, which is logged.

        The kernel hands a saved SYN out once.
        """
        try:
            return self._reader.read(accepted.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, _SAVED_AT_MOST))
        except OSError as why:
            _log.warn("a connection is closed: the kernel saved no SYN: {reason}", reason=why.strerror)
        except BadDatagram as why:
            _log.warn("a connection is closed: its saved SYN cannot be read: {reason}", reason=str(why))
        return None
