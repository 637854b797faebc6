"""What has opened a connection, on disk: a bridge that starts anew opens nothing for it a second time.

Files of records of a fixed size, each appended with one write: a process that is killed leaves whole records, and a
connection waits a microsecond for its own. A power cut may lose the last few.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path

from torknock.errors import TorknockError


class SpentUnusable(TorknockError):
    """What was spent cannot be read or written, so that nobody may come in."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: {error.strerror or 'unusable'}; make room for it, or let tor's user write it")
        self.path = path


class _Records:
    """The file at *path*, made if it is not there, 0600. Every method raises `SpentUnusable` if the disk refuses.

    It is for one process at a time: whoever holds the door.
    """

    record: struct.Struct

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def _kept(self, firsts: Collection[int]) -> set[tuple[int, ...]]:
        """The records whose first number is one of *firsts*; others are forgotten."""
        try:
            octets = self._path.read_bytes() if self._path.exists() else b""
            whole = len(octets) // self.record.size * self.record.size
            kept = {fields for fields in self.record.iter_unpack(octets[:whole]) if fields[0] in firsts}
            self._replace(b"".join(self.record.pack(*fields) for fields in sorted(kept)))
        except OSError as error:
            raise SpentUnusable(self._path, error) from error
        return kept

    def _append(self, *fields: int) -> None:
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.write(self._file, self.record.pack(*fields))
        except OSError as error:
            raise SpentUnusable(self._path, error) from error

    def close(self) -> None:
        """Let go of the file. May be called again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _replace(self, octets: bytes) -> None:
        """Put a file of *octets* in the place of the one that is there, so that there is a whole one at any moment."""
        draft = self._path.with_suffix(".draft")
        self.close()
        draft.unlink(missing_ok=True)
        written = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(written, octets)
        finally:
            os.close(written)
        draft.replace(self._path)


class SpentTokens(_Records):
    """The tokens: records of 12 octets, epoch and ISN, big-endian."""

    record = struct.Struct("!QI")

    def read(self, epochs: Collection[int]) -> set[tuple[int, int]]:
        """The tokens of *epochs*, as (epoch, ISN); those of others are forgotten."""
        return {(epoch, isn) for epoch, isn in self._kept(epochs)}

    def add(self, epoch: int, isn: int) -> None:
        """Write a token down. `read` comes before the first."""
        self._append(epoch, isn)


class SpentKnocks(_Records):
    """The knocks: records of 16 octets, `judge.tag`, ISN and TSval, big-endian."""

    record = struct.Struct("!QII")

    def read(self, tags: Collection[int]) -> set[tuple[int, int, int]]:
        """The knocks with *tags*, as (tag, ISN, TSval); those with others are forgotten."""
        return {(tag, isn, tsval) for tag, isn, tsval in self._kept(tags)}

    def add(self, tag: int, isn: int, tsval: int) -> None:
        """Write a knock down. `read` comes before the first."""
        self._append(tag, isn, tsval)
