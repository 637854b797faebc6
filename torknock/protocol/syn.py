"""A SYN that somebody is asked about, and how he is asked. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SYN:
    """What a knock is judged by, and whose connection it would open."""

    source: str
    source_port: int
    address: bytes
    """The destination as it stands in the IP header: 4 or 16 octets."""
    port: int
    isn: int
    tsval: int | None


Ask = Callable[[Sequence[SYN]], Sequence[bool]]
"""Says of each of some SYNs whether it opens a connection."""

AskLater = Callable[[Sequence[SYN]], Sequence[bool] | Awaitable[Sequence[bool]]]
"""The same, of somebody who may want time for it. If that fails, none does."""
