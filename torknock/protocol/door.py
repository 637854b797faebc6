"""A protected port: its address, its posture, and the name of its nftables table. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from torknock.protocol.word import Word

PREFIX = "torknock-"
"""How the name of every nftables table of ours begins."""


class Posture(Word):
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
    """A protected port."""

    host: str
    """The protected address; "0.0.0.0" and "::" both stand for every address of this host, IPv4 and IPv6."""
    port: int
    posture: Posture = Posture.CLOSED

    @property
    def table(self) -> str:
        """The name of its nftables table, the same for every process that would guard this address and port."""
        return f"{PREFIX}{self.port}" if self.everywhere else f"{PREFIX}{self.host.replace(':', '.')}-{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether every address of this host is protected."""
        return ipaddress.ip_address(self.host).is_unspecified

    def versions(self, ipv6: bool) -> tuple[int, ...]:
        """The IP versions that are protected; *ipv6* is whether this kernel has IPv6."""
        if not self.everywhere:
            return (ipaddress.ip_address(self.host).version,)
        return (4, 6) if ipv6 else (4,)
