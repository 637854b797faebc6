"""The result of looking at one condition, for people and for scripts: `torknock doctor` and `torknock check`. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class State(enum.Enum):
    """Whether a condition holds."""

    OK = "ok"
    NOT_OK = "not ok"
    UNKNOWN = "unknown"
    """The condition could not be checked."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition. No text holds a secret, an address or a fingerprint: findings are posted in public."""

    name: str
    state: State
    why: str
    """What was seen."""
    remedy: str = ""
    """What to do; "" if it is ok."""
    ms: int | None = None
    """How long the answer took, in milliseconds; None if it was not timed."""


def ok(name: str, why: str, ms: int | None = None) -> Finding:
    """The condition *name* holds."""
    return Finding(name, State.OK, why, ms=ms)


def not_ok(name: str, why: str, remedy: str, ms: int | None = None) -> Finding:
    """The condition *name* does not hold."""
    return Finding(name, State.NOT_OK, why, remedy, ms)


def unknown(name: str, why: str, remedy: str, ms: int | None = None) -> Finding:
    """Whether the condition *name* holds could not be checked."""
    return Finding(name, State.UNKNOWN, why, remedy, ms)


def exit_status(states: Iterable[State]) -> int:
    """0 if every state is ok, 1 if one is not ok, else 2: one is unknown."""
    seen = set(states)
    return 1 if State.NOT_OK in seen else 2 if State.UNKNOWN in seen else 0
