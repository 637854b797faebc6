"""A SYN to be judged, and the type of what judges it. Pure."""

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
"""The same, where the answer may come later. If it fails, none opens a connection."""
