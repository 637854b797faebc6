"""Files of configuration: read whole, and replaced whole."""

from __future__ import annotations

import grp
import os
from pathlib import Path

from torknock.kernel.files import read_file, replace_file

AT_MOST = 1 << 20
"""Octets of a file of configuration, or of the record of what was changed."""


def read(path: str) -> str | None:
    """What is at *path*, with every octet kept (surrogateescape); None if there is no file.

    Raises `OSError`, also for what is no file of configuration (`read_file`).
    """
    try:
        return read_file(Path(path), AT_MOST).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def write(path: str, text: str, mode: int, group: int | str | None = None, owner: int | None = None) -> None:
    """Put *text*, as `read` gives it, at *path*: a whole file is there at any moment, also after a power cut.

    It belongs to *owner* and *group*; unless given, to those of this process, which are root's in a set-up.
    """
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    gid = grp.getgrnam(group).gr_gid if isinstance(group, str) else group
    owned_by = (os.geteuid() if owner is None else owner, os.getegid() if gid is None else gid)
    replace_file(Path(path), text.encode("utf-8", "surrogateescape"), mode, owned_by)


def rewrite(path: str, text: str) -> None:
    """Have *text* in the file at *path*, or where a link leads, with the owner and mode that it has."""
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        write(target, text, 0o644)
    else:
        write(target, text, status.st_mode & 0o7777, status.st_gid, status.st_uid)


def read_or_empty(path: Path) -> str:
    """The text of the file at *path*; "" if it cannot be read, or is not UTF-8."""
    try:
        return read_file(path, AT_MOST).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
