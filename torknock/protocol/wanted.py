"""What a gate is to admit at a moment: an answer of the bridge's, and all that a gate is ever told. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """The tokens of one epoch."""

    epoch: int
    edition: int
    """Another number when a token was added, or taken from its line. A token that is spent changes nothing here."""
    seconds: float
    """For how long they are valid from now on; negative once they no longer are."""
    tokens: Collection[int]
    """Those that are not spent. A live view: copy it before waiting for anything."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Each token of *pages* may open one connection, and with *judging* a SYN without a token is asked about."""

    judging: bool = False
    pages: tuple[Page, ...] = ()
