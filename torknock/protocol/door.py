"""A protected port: its address, its posture, and the names that everything of it has. Pure."""

from __future__ import annotations

import enum
import ipaddress
import zlib
from dataclasses import dataclass

PREFIX = "torknock-"
"""How the name of every nftables table of ours begins."""



class Posture(enum.Enum):
    """How a protected port looks to everyone without a token (protocol.md §2.3)."""

    CLOSED = "closed"
    """As one on which nothing listens: the kernel answers."""
    FILTERED = "filtered"
    """As one that a firewall drops: silence."""
    DECOY = "decoy"
    """As what it is besides: a service of the operator's listens there."""

    @property
    def hides_judging(self) -> bool:
        """Whether SYNs can be judged in user space unseen: an answer that waits for a judge is late, silence is not."""
        return self is Posture.FILTERED



@dataclass(frozen=True, slots=True)
class Door:
    """A protected port, and where the SYNs that open it are taken to."""

    host: str
    """The protected address; "0.0.0.0" and "::" both stand for every address of this host, IPv4 and IPv6."""
    port: int
    hidden_ipv4: int
    """Port of the hidden listener on 127.0.0.1."""
    hidden_ipv6: int | None
    """Port of the hidden listener on ::1; None on a kernel without IPv6."""
    posture: Posture = Posture.CLOSED

    @property
    def table(self) -> str:
        """See `table_name`."""
        return table_name(self.host, self.port)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it protects."""
        if not self.everywhere:
            return (ipaddress.ip_address(self.host).version,)
        return (4,) if self.hidden_ipv6 is None else (4, 6)

    @property
    def queue(self) -> int:
        """The number of the packet queue in which SYNs without a token wait to be judged."""
        return zlib.crc32(self.table.encode("ascii")) & 0xFFFF

    @property
    def everywhere(self) -> bool:
        """Whether every address of this host is protected."""
        return ipaddress.ip_address(self.host).is_unspecified



def table_name(host: str, port: int) -> str:
    """The name of the table of the door at *host* and *port*, the same for every process that would guard it."""
    everywhere = ipaddress.ip_address(host).is_unspecified
    return f"{PREFIX}{port}" if everywhere else f"{PREFIX}{host.replace(':', '.')}-{port}"
