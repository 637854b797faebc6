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
    """A set-up cannot be done; nothing was changed, or what was changed is undone."""


class Reader(enum.StrEnum):
    """The program that must read a file again when it has changed."""

    NONE = ""
    TOR = "tor"
    """The set-up reloads it once all files are written."""
    SYSTEMD = "systemd"
    APPARMOR = "apparmor"


class Change(Protocol):
    """One change to a host. Its attributes are what `Record` keeps."""

    @property
    def key(self) -> tuple[str, ...]:
        """What it changes: a later change with the same key continues this one."""

    def describe(self) -> str:
        """The change in words, for the operator; further lines are indented."""

    def is_needed(self) -> bool:
        """Whether it is still to be made."""

    def inspect(self, earlier: Sequence[Any]) -> None:
        """Note what is there before the change; *earlier* are recorded changes of its kind and key, oldest first.

        Raises `CannotChange` if what is there must stay.
        """

    def make(self) -> None:
        """Make it. Raises `CannotChange`."""

    def undo(self) -> str:
        """Restore what `inspect` noted; returns what could not be restored, or ""."""

    def merged_with(self, earlier: Any) -> Self:
        """The change that *earlier* and this one make together: its undo restores what was there before both."""
