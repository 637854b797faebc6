"""What was found out about one condition, for people and for scripts. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class State(enum.Enum):
    """Whether a condition holds."""

    OK = "ok"
    NOT_OK = "not ok"
    UNKNOWN = "unknown"
    """It could not be found out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition. No text holds a secret, an address or a fingerprint: findings are posted in public."""

    name: str
    state: State
    why: str
    """What was seen."""
    remedy: str = ""
    """What to do; "" if it is ok."""


def ok(name: str, why: str) -> Finding:
    """The condition *name* holds."""
    return Finding(name, State.OK, why)


def not_ok(name: str, why: str, remedy: str) -> Finding:
    """The condition *name* does not hold."""
    return Finding(name, State.NOT_OK, why, remedy)


def unknown(name: str, why: str, remedy: str) -> Finding:
    """Whether the condition *name* holds could not be found out."""
    return Finding(name, State.UNKNOWN, why, remedy)


def exit_status(states: Iterable[State]) -> int:
    """0 if all is ok, 1 if something is not, 2 if nothing is known to be wrong and something is not known."""
    seen = set(states)
    return 1 if State.NOT_OK in seen else 2 if State.UNKNOWN in seen else 0
