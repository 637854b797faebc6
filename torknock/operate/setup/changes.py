"""What a set-up changes on a host: each change can describe itself, be made, and be undone.

`record.Record` writes a change down before it is made, with what was there before. So `undo` must also work for a
change that was not made, or is already undone. What a person has changed since is kept, and reported. The kinds of
change: `file_changes`, `account_changes`, `service_changes` and `doors`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Protocol, Self

from torknock.errors import TorknockError


class CannotChange(TorknockError):
    """A change was not made."""


class CannotSetUp(TorknockError):
    """Something stands in the way of a set-up; nothing was changed, or what was changed is undone."""


class Reader(enum.StrEnum):
    """Who must read a file again once it is another one."""

    NONE = ""
    TOR = "tor"
    """The set-up tells it, when all files are as they should be."""
    SYSTEMD = "systemd"
    APPARMOR = "apparmor"


class Change(Protocol):
    """One thing that is different afterwards. Its attributes are what `Record` keeps."""

    @property
    def key(self) -> tuple[str, ...]:
        """What it changes: a later change with the same key continues this one."""

    def told(self) -> str:
        """What it is, for a person; further lines are indented."""

    def wanted(self) -> bool:
        """Whether it is not so already."""

    def look(self, earlier: Sequence[Any]) -> None:
        """Note what is there now; *earlier* are the recorded changes of its kind and key, oldest first.

        Raises `CannotChange` if what is there must stay.
        """

    def make(self) -> None:
        """Make it. Raises `CannotChange`."""

    def undo(self) -> str:
        """Give back what `look` has noted; what could not be given back, or ""."""

    def since(self, earlier: Any) -> Self:
        """The change that this one and *earlier* are together: its undo gives back what was there before both."""
