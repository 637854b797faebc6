"""One process at a time: what several may make in a directory, one makes."""

from __future__ import annotations

import fcntl
import os
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
