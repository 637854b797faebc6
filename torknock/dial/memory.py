"""Which tokens this client has used: on disk, so that a client that starts anew uses none twice (protocol.md §2.4).

The file holds no secret and no address.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from twisted.logger import Logger

from torknock.line import Line

_log = Logger()

_NAME = "knocks.sqlite"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS used (
        line BLOB, epoch INTEGER, isn INTEGER, PRIMARY KEY (line, epoch, isn)
    ) STRICT, WITHOUT ROWID
"""
_PATIENCE = 5.0
"""Seconds that another process may hold the file."""


def line_id(line: Line) -> bytes:
    """A name for *line* that tells nothing of its secret, 16 bytes."""
    return hashlib.sha256(b"torknock/1 memory\0" + line.secret + line.bridge_name).digest()[:16]


class Memory:
    """The used tokens, in the file `knocks.sqlite` of *directory*. Two processes may share it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        try:
            self._database = _open(self._path)
        except (sqlite3.Error, OSError) as error:
            aside = self._path.with_suffix(".damaged")
            _log.error(
                "{path} cannot be used: {reason}; it is put aside, and tokens of the last minutes may be tried twice",
                path=str(self._path), reason=str(error),
            )  # fmt: skip
            for file in (self._path, *(self._path.with_name(_NAME + end) for end in ("-wal", "-shm"))):
                if file.exists():
                    os.replace(file, aside if file == self._path else file.with_suffix(".damaged"))
            self._database = _open(self._path)

    def claim(self, line: bytes, epoch: int, isn: int) -> bool:
        """Write a token down as used; False if it was before, perhaps by another process at this moment."""
        done = self._database.execute("INSERT OR IGNORE INTO used VALUES (?, ?, ?)", (line, epoch, isn))
        return done.rowcount == 1

    def unclaim(self, line: bytes, epoch: int, isn: int) -> None:
        """The token was not sent after all."""
        self._database.execute("DELETE FROM used WHERE (line, epoch, isn) = (?, ?, ?)", (line, epoch, isn))

    def used(self, line: bytes, epochs: Iterable[int]) -> set[tuple[int, int]]:
        """The tokens of *epochs* that were used, as (epoch, ISN)."""
        return {
            (epoch, isn)
            for epoch in epochs
            for (isn,) in self._database.execute("SELECT isn FROM used WHERE (line, epoch) = (?, ?)", (line, epoch))
        }

    def forget(self, line: bytes, before_epoch: int) -> None:
        """Forget a line's tokens of epochs before that one."""
        self._database.execute("DELETE FROM used WHERE line = ? AND epoch < ?", (line, before_epoch))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
