"""What a host does with a stranger's SYN, as values. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Fate(enum.Enum):
    """What becomes of a SYN."""

    PASSED = "let in"
    """It comes to whatever listens, or meets a closed port."""
    DROPPED = "dropped"
    REJECTED = "rejected"
    """With an ICMP message, which no closed port sends."""
    RESET = "refused with a reset"
    ANSWERED = "answered with a SYN-ACK by the firewall"
    TAKEN = "taken to another service by address translation"
    UNKNOWN = "given to what cannot be judged"
    """It may be answered, dropped, or taken elsewhere."""


@dataclass(frozen=True, slots=True)
class SYN:
    """A stranger's SYN."""

    port: int
    version: int
    """4 or 6."""
    address: str | None = None
    """The one of this host's that it is sent to; None for each that its interface has."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What may become of a SYN, and the rules because of which it is not known."""

    fates: frozenset[Fate]
    doubts: tuple[str, ...] = ()

    @property
    def fate(self) -> Fate | None:
        """The one thing that becomes of it; None if that is not known."""
        return next(iter(self.fates - {Fate.UNKNOWN}), None) if len(self.fates) == 1 else None


def unjudged(*doubts: str) -> Judgement:
    """Nothing is known, because of *doubts*."""
    return Judgement(frozenset({Fate.UNKNOWN}), doubts)
