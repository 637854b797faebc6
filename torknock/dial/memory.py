"""Which tokens this client has used: on disk, so that a client that starts anew uses none twice (protocol.md §2.4).

The file holds no secret and no address; besides a random number that tells devices with one line apart, nothing older
than two hours while its client runs: `forget` is called at its start and then every minute, and what is forgotten is
overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from torknock.isn.token import epoch_at
from torknock.line import Line
from torknock.lock import alone_in

_log = Logger()

_NAME = "knocks.sqlite"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS used (
        epoch INTEGER, line BLOB, isn INTEGER, PRIMARY KEY (epoch, line, isn)
    ) STRICT, WITHOUT ROWID
"""
_DEVICE_SCHEMA = "CREATE TABLE IF NOT EXISTS device (one INTEGER PRIMARY KEY CHECK (one = 1), number BLOB) STRICT"
_PATIENCE = 1.0
"""Seconds that another process may hold the file; the reactor waits with us."""

KEPT = 22
"""Epochs from a token's own to the one in which it is forgotten: more than any clock is wrong that finds its bridge.

That is within two hours of its use, as tokens of the next epoch may be used; of a search, up to 15 minutes later.
"""


def line_id(line: Line) -> bytes:
    """A name for *line* that tells nothing of its secret: 16 bytes of SHA-256 over a label and what names the line."""
    return hashlib.sha256(b"torknock/1 memory\0" + line.secret + line.bridge_name).digest()[:16]


class Memory:
    """The used tokens, in the file `knocks.sqlite` of *directory*, which two processes may share.

    A damaged file is put aside. Where none can be kept, what this process used is still remembered while it lives.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._own: set[tuple[int, bytes, int]] = set()
        self._file: sqlite3.Connection | None = None
        self._device: bytes | None = None
        self._left_over = True
        """Whether the write-ahead log may hold what was forgotten."""
        try:
            self._file = _opened(self._path)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)

    def claim(self, line: bytes, epoch: int, isn: int) -> bool:
        """Write a token down as used; False if it was before, perhaps by another process at this moment."""
        token = (epoch, line, isn)
        if token in self._own:
            return False
        self._own.add(token)
        inserted = self._execute("INSERT OR IGNORE INTO used VALUES (?, ?, ?) RETURNING isn", token)
        return inserted is None or bool(inserted)

    def unclaim(self, line: bytes, epoch: int, isn: int) -> None:
        """The token was not sent after all."""
        self._own.discard((epoch, line, isn))
        self._execute("DELETE FROM used WHERE (epoch, line, isn) = (?, ?, ?)", (epoch, line, isn))

    def used(self, line: bytes) -> set[int]:
        """The ISNs that were used with *line*, as far as they are not forgotten."""
        written = self._execute("SELECT isn FROM used WHERE line = ?", (line,)) or ()
        return {isn for (isn,) in written} | {isn for _, some_line, isn in self._own if some_line == line}

    def start(self, line: bytes) -> int:
        """Where this device begins in the tokens of an epoch of *line*, to be cut to their number.

        Another device with the same line begins elsewhere; two lines of one device tell nothing about each other.
        """
        return int.from_bytes(hashlib.sha256(b"torknock/1 start\0" + self._number() + line).digest()[:8])

    def _number(self) -> bytes:
        """16 random octets, the same for all processes that use the file."""
        if self._device is None:
            drawn = secrets.token_bytes(16)
            self._execute("INSERT OR IGNORE INTO device VALUES (1, ?)", (drawn,))
            [(stored,)] = self._execute("SELECT number FROM device", ()) or [(drawn,)]
            self._device = stored if isinstance(stored, bytes) and len(stored) == len(drawn) else drawn
        return self._device

    def forget(self, epoch: int) -> None:
        """Forget what was used `KEPT` epochs before *epoch*, the present one, or earlier.

        No file of the directory holds it afterwards, unless another process reads at this moment: then the next call
        sees to that.
        """
        oldest = epoch - KEPT
        self._own = {token for token in self._own if token[0] > oldest}
        gone = self._execute("DELETE FROM used WHERE epoch <= ? RETURNING isn", (oldest,))
        if gone or self._left_over:
            busy = self._execute("PRAGMA wal_checkpoint(TRUNCATE)", ())
            self._left_over = not busy or bool(busy[0][0])
        with contextlib.suppress(OSError):
            if epoch_at(self._aside.stat().st_mtime) <= oldest:
                self._aside.unlink()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _execute(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any]] | None:
        """The rows that *statement* yields; None where there is no file, or none any more."""
        if self._file is None:
            return None
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self.close()
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        if type(error) is sqlite3.DatabaseError:  # SQLITE_CORRUPT, SQLITE_NOTADB; subclasses are for all else
            self._begin_anew(error)
        else:  # it is locked, the disk is full, it is not ours: the file may be good
            self._go_without(error)

    @property
    def _aside(self) -> Path:
        return self._path.with_suffix(".damaged")

    def _begin_anew(self, error: Exception) -> None:
        aside = self._aside
        _log.error(
            "{path} cannot be read: {reason}; it is kept as {aside}, and a knock of the last minutes may be repeated",
            path=str(self._path), aside=aside.name, reason=str(error),
        )  # fmt: skip
        try:
            os.replace(self._path, aside)
            for part in ("-wal", "-shm"):
                self._path.with_name(_NAME + part).unlink(missing_ok=True)
            self._file = _opened(self._path)
            self._file.executemany("INSERT OR IGNORE INTO used VALUES (?, ?, ?)", self._own)
            if self._device is not None:
                self._file.execute("INSERT OR IGNORE INTO device VALUES (1, ?)", (self._device,))
        except (sqlite3.Error, OSError) as also:
            self.close()
            self._go_without(also)

    def _go_without(self, error: Exception) -> None:
        _log.error(
            "{path} cannot be used: {reason}; knocks of the last minutes may be repeated when this process starts anew",
            path=str(self._path), reason=str(error),
        )  # fmt: skip


def _opened(path: Path) -> sqlite3.Connection:
    """The database at *path*, made if it is not there; whoever opens it at the same moment waits.

    SQLite itself refuses at once, rather than wait, where two begin to write ahead in one new file.
    """
    with alone_in(path.parent):
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            "PRAGMA secure_delete = ON",
            _SCHEMA,
            _DEVICE_SCHEMA,
        ):
            database.execute(statement)
    except sqlite3.Error:
        database.close()
        raise
    return database
