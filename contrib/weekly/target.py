"""A parser under test, and what of it counts as a fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torknock.errors import TorknockError

SECONDS_AN_INPUT = 1.0
"""Processor time; a parser that needs more lets one input hold its process up."""


class Fault(Exception):
    """An input that a parser does not cope with; the text says how."""


@dataclass(frozen=True, slots=True)
class Target:
    """*function* parses any octets: it returns, or raises one of *allowed*, within `SECONDS_AN_INPUT`."""

    name: str
    function: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    """Inputs that are parsed, from which others are made."""

    def check(self, octets: bytes) -> None:
        """Parse *octets*. Raises `Fault`, and whatever the parser must not raise."""
        begun = time.process_time()
        try:
            self.function(octets)
        except self.allowed as error:
            if isinstance(error, TorknockError) and not str(error).isprintable():
                raise Fault(f"the message of {type(error).__name__} is more than one printable line") from error
        taken = time.process_time() - begun
        if taken > SECONDS_AN_INPUT:
            raise Fault(f"{len(octets)} octets took {taken:.1f} s")


def same(one: object, other: object) -> None:
    """Raises `Fault` unless *one*, which was read, is *other*, which was written out of it and read again."""
    if one != other:
        raise Fault("what was read, written and read again is something else")


def text(octets: bytes) -> str:
    """*octets* as a text of any characters, also such that no UTF-8 has."""
    return octets.decode("utf-8", "surrogateescape")


def pieces(octets: bytes) -> list[bytes]:
    """*octets* but for the first, which says in pieces of which size they come."""
    size = 1 + octets[0] if octets else 1
    return [octets[at : at + size] for at in range(1, len(octets), size)]
