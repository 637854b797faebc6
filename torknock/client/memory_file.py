"""The SQLite file of used tokens: opened only if it is whole, and small enough not to hold the reactor up."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

_TIMEOUT = 0.05
"""Seconds that another process may hold the file; the reactor waits with us. Ours hold it for less than 1 ms."""

_LARGEST = 8 * 1024 * 1024
"""Octets, with the write-ahead log: 100,000 tokens, and as much log as a process that was killed leaves behind.

Such a file is checked in 0.1 s, one of some tokens in less than 1 ms.
"""

_TABLES = (
    "used ( epoch INTEGER, line BLOB, isn INTEGER, PRIMARY KEY (epoch, line, isn) ) STRICT, WITHOUT ROWID",
    "device (one INTEGER PRIMARY KEY CHECK (one = 1), number BLOB) STRICT",
)
"""As SQLite keeps them, but for white space."""

_NOT_ITS_FAULT = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip
"""Primary result codes of a file that may be good: it is locked, the disk is full or broken, we may not open it."""

_HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Damaged(Exception):
    """The file is no file of used tokens."""


def is_held(error: Exception) -> bool:
    """Whether *error* tells that another program has the file, or its directory, to itself at this moment."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _HELD
    return isinstance(error, BlockingIOError)


def is_damage(error: Exception) -> bool:
    """Whether *error*, of opening the file or of a statement, tells that what stands in it is wrong.

    Whatever is not known to have another cause does: what a damaged file makes of SQLite and of `sqlite3` has no end.
    """
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _NOT_ITS_FAULT
    return not isinstance(error, OSError)


def opened(path: Path) -> sqlite3.Connection:
    """The database at *path*, made if it is not there. To be called by one process at a time (`torknock.kernel.lock`).

    SQLite itself refuses at once, rather than wait, where two begin to write ahead in one new file.

    Raises `Damaged`, and any other error: see `is_damage` and `is_held`.
    """
    _check_size(path)
    database = sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None)
    try:
        database.text_factory = bytes  # what is no UTF-8 is no error
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
            database.execute(f"PRAGMA {pragma}")
        _check(database)
        for table in _TABLES:
            database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    except BaseException:
        database.close()
        raise
    return database


def _check_size(path: Path) -> None:
    made = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(made)
    finally:
        os.close(made)
    if not stat.S_ISREG(found.st_mode):
        raise Damaged("it is no regular file")
    log = path.with_name(path.name + "-wal")
    if found.st_size + (log.stat().st_size if log.exists() else 0) > _LARGEST:
        raise Damaged(f"it is larger than {_LARGEST:,} octets")


def _check(database: sqlite3.Connection) -> None:
    """Raise `Damaged` if something is there but our tables, or a row has not its types or its place."""
    found = {b" ".join(sql.split()) for (sql,) in database.execute("SELECT sql FROM sqlite_schema LIMIT 3")}
    if found - {f"CREATE TABLE {table}".encode() for table in _TABLES}:
        raise Damaged("it has other tables")
    [(told,)] = database.execute("PRAGMA quick_check(1)").fetchall()
    if told != b"ok":
        raise Damaged("its tables are damaged")
