"""What a running bridge says of itself, as a value and as one line of JSON. Pure.

Nothing in it is secret, and nothing in it is a client's: counts, and the operator's own names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from torknock.errors import TorknockError

SOCKET = "status.sock"
"""The name, in the keyring's directory, of the socket where a running bridge tells its status."""

LONGEST = 4_194_304
"""Octets of a status as JSON: some forty thousand lines in use."""

GUESSES_A_SECOND = 10_000
"""SYNs a second that an attacker is assumed to send, where a number is put into words."""

_MOST = 2**63 - 1
_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


class StatusError(TorknockError):
    """What was read is not the status of a bridge."""

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
    TOKENS_MISSING = "tokens-missing"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning: for scripts, and for people."""

    trouble: Trouble
    text: str


@dataclass(frozen=True, slots=True)
class LineInUse:
    """A line that has a connection."""

    name: str
    connections: int
    """Now."""
    opened: int
    """Since the bridge was started."""


class Kind(StrEnum):
    """Whether a figure goes up and down, or only up."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Figure:
    """How a number of a `Status` is published: to Prometheus, and in a row of `torknock status`."""

    kind: Kind
    metric: str
    """Its name for Prometheus, without `torknock_` and without the `_total` of a counter."""
    meaning: str
    row: str
    words: Callable[[int], str]
    unknown: str = ""
    """What is shown where the number is None; a figure without these words is never None."""


def _gauge(metric: str, meaning: str, row: str, words: Callable[[int], str], unknown: str = "") -> Any:
    return field(default=0, metadata={Figure: Figure(Kind.GAUGE, metric, meaning, row, words, unknown)})


def _counter(metric: str, meaning: str, row: str, words: Callable[[int], str], unknown: str = "") -> Any:
    return field(default=0, metadata={Figure: Figure(Kind.COUNTER, metric, meaning, row, words, unknown)})


def _live(tokens: int) -> str:
    return f"{tokens:,} live: {odds(tokens)}"


def _up(seconds: int) -> str:
    return f"up for {about(seconds)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A bridge. What is counted is counted since it was started. Numbers are below 2**63, texts one printable line.

    This is the one table of figures: JSON, Prometheus and `torknock status` are made from it. A new counter is one
    entry here, and a call of `Counts.count` with its name.
    """

    version: str
    """torknock's."""
    uptime: int = _gauge("uptime_seconds", "Since the bridge was started.", "torknock", _up)
    posture: str
    port: int
    connections: int = _gauge("connections", "Connections now, with a proof.", "connections", "{:,} now".format)
    opened: int = _counter(
        "connections_opened", "Connections that proved themselves.", "connections", "{:,} since the start".format
    )
    let_in: int = _counter("syns_let_in", "SYNs that opened a connection.", "SYNs", "{:,} let in".format)
    refused: int | None = _counter(
        "syns_refused", "SYNs that did not, an estimate.", "SYNs", "about {:,} refused".format, "others not counted"
    )
    """See `IGate.refused`; None where the gate does not count them."""
    given_nothing: int = _counter(
        "given_nothing", "Connections that never proved themselves.", "connections", "{:,} without a proof".format
    )
    site_failed: int = _counter(
        "site_failed",
        "Connections that the site's web server did not take.",
        "connections",
        "{:,} not taken by the site".format,
    )
    lines: int = _gauge("lines", "Lines that open a connection now.", "lines", "{:,} live".format)
    lines_in_use: int = _gauge("lines_in_use", "Lines with a connection now.", "lines", "{:,} in use".format)
    tokens: int = _gauge("tokens", "ISNs that should open a connection now.", "tokens", _live)
    held: int | None = _gauge(
        "tokens_held", "ISNs that the kernel holds.", "kernel", "{:,} tokens held".format, "tokens not known"
    )
    """See `IGate.held`; None if it is not known."""
    in_use: tuple[LineInUse, ...]
    warnings: tuple[Warned, ...]

    @property
    def syns_to_a_hit(self) -> int | None:
        """So many random SYNs open one connection on average; None if none ever does."""
        return _syns_to_a_hit(self.tokens)


FIGURES: Mapping[str, Figure] = {each.name: each.metadata[Figure] for each in fields(Status) if Figure in each.metadata}
"""The figures of a `Status`, by the names of its members, in the order in which they are shown."""


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
    return Status(
        version=_text(given, "version"),
        posture=_text(given, "posture"),
        port=_number(given, "port"),
        in_use=tuple(map(_line, _list(given, "in_use"))),
        warnings=tuple(map(_warned, _list(given, "warnings"))),
        **{name: _figure_in(given, name, figure) for name, figure in FIGURES.items()},
    )


def _figure_in(given: dict[str, object], name: str, figure: Figure) -> Any:
    return None if given[name] is None and figure.unknown else _number(given, name)


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
