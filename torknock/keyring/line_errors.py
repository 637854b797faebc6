"""Why a request about one line is refused; names and notes are checked here. Pure."""

from __future__ import annotations

import re

from torknock.errors import TorknockError

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}")

NOTE_AT_MOST = 200
"""Characters of a note."""


class LineExists(TorknockError):
    """The name is that of another line, live or revoked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a line called {name} already", "choose another name, or see torknock line list")


class LineUnknown(TorknockError):
    """No line has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no line is called {name}", "see torknock line list")


class LineRevoked(TorknockError):
    """The line is revoked, which cannot be undone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the line {name} is revoked permanently", "issue another with torknock line add")


class LineErased(TorknockError):
    """The line has expired, and its secret is erased."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the line {name} has expired and its secret is erased", "issue another with torknock line add"
        )


class BadNote(TorknockError):
    """The text cannot be a note."""

    def __init__(self) -> None:
        super().__init__(f"a note is one line of at most {NOTE_AT_MOST} printable characters")


class BadName(TorknockError):
    """The text cannot be a line's name."""

    def __init__(self) -> None:
        super().__init__("a line's name is 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not begin with -")


def check_name(name: str) -> None:
    """Raise `BadName` unless *name* can be a line's name."""
    if not _NAME.fullmatch(name):
        raise BadName


def check_note(note: str) -> None:
    """Raise `BadNote` unless *note* can be a line's note."""
    if len(note) > NOTE_AT_MOST or not note.isprintable():
        raise BadNote
