"""One process at a time: what several may make in a directory, one makes; what one may have, the first has."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_in(directory: Path, wait: bool = True) -> Iterator[int]:
    """Hold *directory*, a file descriptor of which is given, against all others that ask; they wait (flock(2)).

    The lock is on the directory itself: it leaves no file, and ends with the process. Raises `OSError`; without *wait*
    `BlockingIOError` if another holds it.
    """
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield held
    finally:
        os.close(held)


def try_lock(directory: Path, name: str) -> int | None:
    """A file descriptor that holds *name* in *directory* until it is closed; None if another process holds it.

    *directory* is made for its owner alone if it is not there, and is refused if others may enter it: what they can
    open they can lock. The file that is locked (flock(2)) is empty and stays, because one that is removed could be held
    twice. Raises `OSError`.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_IMODE(os.fstat(inside).st_mode) & 0o077:
            raise PermissionError(errno.EPERM, "other users may enter it", str(directory))
        held = _opened(name, inside)
    finally:
        os.close(inside)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    except BaseException:
        os.close(held)
        raise
    return held


def _opened(name: str, directory: int) -> int:
    """The file *name*, made if it is not there: root and the owner of the directory can open what the other made."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        made = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    except FileExistsError:
        return os.open(name, flags, dir_fd=directory)
    os.fchmod(made, 0o644)  # whatever the umask is
    return made
