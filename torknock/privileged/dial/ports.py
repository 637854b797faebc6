"""The source ports that this host's kernel chooses from for a `connect` (net.ipv4.ip_local_port_range, ip-sysctl)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from torknock.kernel.places import SYSCTLS_IPV4

_BY_CHANCE = 32
"""Ports of each parity that are drawn before all are walked through, which takes 2 ms if most were used."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports *low* to *high*, but for the *reserved* ones."""

    low: int
    high: int
    reserved: frozenset[int] = frozenset()

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high and port not in self.reserved

    def drawn(self, like: int) -> Iterator[int]:
        """Every port at least once: some by chance, then all in the order of a `connect`, from a random one on.

        Those of the parity of *like* come first, as in __inet_hash_connect (net/ipv4/inet_hashtables.c).
        """
        first, second = (range(self.low + (parity - self.low) % 2, self.high + 1, 2) for parity in (like, like + 1))
        halves = [half for half in (first, second) if half]
        for half in halves:
            yield from filter(self.__contains__, (secrets.choice(half) for _ in range(_BY_CHANCE)))
        for half in halves:
            start = secrets.randbelow(len(half))
            yield from filter(self.__contains__, chain(half[start:], half[:start]))

    def __len__(self) -> int:
        return sum(port in self for port in range(self.low, self.high + 1))


def local_ports() -> Ports:
    """Those of this network namespace. Raises `OSError`."""
    low, high = map(int, (SYSCTLS_IPV4 / "ip_local_port_range").read_text("ascii").split())
    return Ports(low, high, _numbers((SYSCTLS_IPV4 / "ip_local_reserved_ports").read_text("ascii")))


def _numbers(ranges: str) -> frozenset[int]:
    """The numbers in *ranges*, such as "8080,9148-9150"."""
    found: set[int] = set()
    for each in ranges.strip().split(","):
        if each:
            first, _, last = each.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
