"""Words that stand for a choice, each list of them in one place. Pure."""

from __future__ import annotations

import enum
from typing import Self


class Word(enum.StrEnum):
    """A choice that people and programs write as one word, its value; the first member is the usual one."""

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """The member that is written *text*; None if there is none."""
        return next((each for each in cls if each.value == text), None)

    @classmethod
    def listed(cls) -> str:
        """All of them as a message names them: `closed, filtered or decoy`."""
        *others, last = (each.value for each in cls)
        return f"{', '.join(others)} or {last}"
