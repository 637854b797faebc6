"""The key log of one TLS connection: in memory, read once, then gone.

A library that writes a key log opens it by a path, and may keep it open for as long as its connection lives. So the log
is a file without a name (memfd_create(2)), opened by way of `/proc/self/fd`. Once it is read, the file is emptied, this
process's descriptor of it is closed, and the library's is made one of `/dev/null` (dup2(2)): its number stays the
library's, to be closed by it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from contextlib import suppress

_LINES_AT_MOST = 1 << 14
"""Octets of a log that are looked at; a handshake writes five lines of less than 300 (draft-ietf-tls-keylogfile)."""

_NUMBERS_AT_MOST = 65_536
"""As many as `torknock.kernel.descriptor_limit` allows."""

_NAME = "exporter"


class KeyLog:
    """A key log for one connection. Raises `OSError` if there can be none: without `/proc`, or without descriptors."""

    def __init__(self) -> None:
        self._file: int | None = os.memfd_create(_NAME, os.MFD_CLOEXEC)

    @property
    def path(self) -> str:
        """Where this process, and no other user's, can open it until it is closed."""
        return f"/proc/self/fd/{self._file}"

    def take_exporter_secret(self) -> bytes | None:
        """TLS 1.3's `exporter_secret` if it was logged; the log is closed."""
        try:
            lines = b"" if self._file is None else os.pread(self._file, _LINES_AT_MOST, 0)
        finally:
            self.close()
        for line in lines.decode("ascii", "replace").splitlines():
            words = line.split(" ")
            if len(words) == 3 and words[0] == "EXPORTER_SECRET":
                return bytes.fromhex(words[2])
        return None

    def close(self) -> None:
        """Empty the log and close it, also for others who hold it open."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.ftruncate(file, 0)
            _silence_others(file)
        finally:
            os.close(file)

    def __del__(self) -> None:
        """A connection that ended before its handshake has left its log."""
        with suppress(OSError, AttributeError):
            self.close()


def _silence_others(file: int) -> None:
    """Have every other descriptor of this process for *file* be one of `/dev/null`."""
    wanted = _identity(file)
    others = [number for number in _descriptors() if number != file and _identity(number) == wanted]
    if not others:
        return
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for other in others:
            os.dup2(null, other, inheritable=False)
    finally:
        os.close(null)


def _descriptors() -> Iterable[int]:
    """The descriptors that this process may have."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # a sandbox may forbid it: then each number is tried, some milliseconds for all
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _NUMBERS_AT_MOST))


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:  # the listing's own, or another thread's
        return None
    return found.st_dev, found.st_ino
