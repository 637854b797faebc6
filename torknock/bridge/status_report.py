"""What a running bridge says of itself, as a value and as one line of JSON. Pure.

Nothing in it is secret, and nothing in it is a client's: counts, and the operator's own names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from torknock.errors import TorknockError

SOCKET = "status.sock"
"""The name, in the keyring's directory, of the socket where a running bridge tells its status."""

LONGEST = 4_194_304
"""Octets of a status as JSON: some forty thousand lines in use."""

GUESSES_A_SECOND = 10_000
"""SYNs a second that somebody may be thought to send, where a number is put into words."""

_MOST = 2**63 - 1
_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


class StatusError(TorknockError):
    """What should be a bridge's status is none."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the bridge's status cannot be read: {what}",
            "install the same version of torknock as the bridge runs, or restart tor",
        )


class Trouble(StrEnum):
    """What an operator is warned of."""

    CLOSED = "closed"
    GUESSING = "guessing"
    HIT_NEAR = "hit-near"
    GIVEN_NOTHING = "given-nothing"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning: for scripts, and for people."""

    trouble: Trouble
    text: str


@dataclass(frozen=True, slots=True)
class LineInUse:
    """A line that somebody is connected by."""

    name: str
    connections: int
    """Now."""
    opened: int
    """Since the bridge was started."""


@dataclass(frozen=True, slots=True)
class Status:
    """A bridge. What is counted is counted since it was started. Numbers are below 2**63, texts one printable line."""

    version: str
    """torknock's."""
    uptime: int
    """Seconds."""
    posture: str
    port: int
    connections: int
    """Now, of those that proved themselves."""
    opened: int
    """Connections that proved themselves."""
    let_in: int
    """SYNs that opened a connection."""
    refused: int | None
    """SYNs that did not, about (see `IGate.refused`); None where nobody counts them."""
    given_nothing: int
    """Connections whose SYN was right, and that never proved themselves."""
    lines: int
    """Lines that open a connection now."""
    tokens: int
    """ISNs that open a connection now."""
    in_use: tuple[LineInUse, ...]
    warnings: tuple[Warned, ...]

    @property
    def syns_to_a_hit(self) -> int | None:
        """So many random SYNs open one connection on average; None if none ever does."""
        return _syns_to_a_hit(self.tokens)


def to_json(status: Status) -> bytes:
    """One line of ASCII, with its end, that `from_json` reads."""
    return json.dumps(asdict(status)).encode("ascii") + b"\n"


def from_json(octets: bytes) -> Status:
    """The status that *octets* are. Raises `StatusError` for anything that `to_json` would not have written."""
    if len(octets) > LONGEST:
        raise StatusError("it is too long")
    try:
        read = json.loads(octets.decode("ascii"), parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise StatusError("it is not JSON") from None
    given = _members(Status, read)
    refused = given["refused"]
    return Status(
        version=_text(given, "version"),
        uptime=_number(given, "uptime"),
        posture=_text(given, "posture"),
        port=_number(given, "port"),
        connections=_number(given, "connections"),
        opened=_number(given, "opened"),
        let_in=_number(given, "let_in"),
        refused=None if refused is None else _number(given, "refused"),
        given_nothing=_number(given, "given_nothing"),
        lines=_number(given, "lines"),
        tokens=_number(given, "tokens"),
        in_use=tuple(map(_line, _list(given, "in_use"))),
        warnings=tuple(map(_warned, _list(given, "warnings"))),
    )


def about(seconds: float) -> str:
    """*seconds* in words: `about 5 days`."""
    for unit, size in _UNITS:
        count = round(seconds / size)
        if seconds >= size:
            return f"about {count} {unit}{'s' * (count > 1)}"
    return "less than a second"


def odds(tokens: int) -> str:
    """What so many live *tokens* mean for an attacker who sends random SYNs."""
    syns = _syns_to_a_hit(tokens)
    if syns is None:
        return "no SYN opens a connection"
    return (
        f"1 random SYN in {syns:,} opens a connection; "
        f"at {GUESSES_A_SECOND:,} SYNs a second: {about(syns / GUESSES_A_SECOND)}"
    )


def _syns_to_a_hit(tokens: int) -> int | None:
    return 2**32 // tokens if tokens else None


def _line(read: object) -> LineInUse:
    given = _members(LineInUse, read)
    return LineInUse(_text(given, "name"), _number(given, "connections"), _number(given, "opened"))


def _warned(read: object) -> Warned:
    given = _members(Warned, read)
    try:
        trouble = Trouble(_text(given, "trouble"))
    except ValueError:
        raise StatusError("it warns of something unknown") from None
    return Warned(trouble, _text(given, "text"))


def _members(kind: Any, read: object) -> dict[str, object]:
    """*read* as the members of a *kind*: all of them, and no others."""
    names = {each.name for each in fields(kind)}
    if not isinstance(read, dict) or set(read) != names:
        raise StatusError(f"a {kind.__name__} has the members {', '.join(sorted(names))}")
    return read


def _number(given: dict[str, object], name: str) -> int:
    value = given[name]
    if type(value) is not int or not 0 <= value <= _MOST:
        raise StatusError(f"{name} is not a number from 0 to 2**63 - 1")
    return value


def _text(given: dict[str, object], name: str) -> str:
    value = given[name]
    if not isinstance(value, str) or not value.isprintable():
        raise StatusError(f"{name} is not one line of text")
    return value


def _list(given: dict[str, object], name: str) -> list[object]:
    value = given[name]
    if not isinstance(value, list):
        raise StatusError(f"{name} is not a list")
    return value


def _no_number(text: str) -> None:
    raise ValueError(text)
