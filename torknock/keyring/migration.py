"""Brings a keyring's database of an earlier version to this one's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 6

PRINTED_WITH = """
    CREATE TABLE printed_with (line TEXT NOT NULL, address TEXT NOT NULL, PRIMARY KEY (line, address)) STRICT;
"""
"""The bridge's addresses, IP literals, that the line of this name was printed with; the first has the lowest rowid."""

_FROM_VERSION_1 = """
    ALTER TABLE line ADD COLUMN note TEXT NOT NULL DEFAULT '';
    ALTER TABLE line ADD COLUMN last_used INTEGER;
    ALTER TABLE line ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE line ADD COLUMN cut INTEGER NOT NULL DEFAULT 0;
"""
_FROM_VERSION_4 = "ALTER TABLE line ADD COLUMN shape INTEGER NOT NULL DEFAULT 0"
_FROM_VERSION_5 = """
    ALTER TABLE line ADD COLUMN pin BLOB;
    ALTER TABLE line ADD COLUMN path TEXT NOT NULL DEFAULT '';
"""


def migrate(database: sqlite3.Connection) -> None:
    """Bring a database of an earlier version to this one's, unless another process has done so by now.

    Version 3 has the tables of version 2. Versions 1 to 3 left what they erased in free pages, which VACUUM removes.
    """
    database.execute("VACUUM")
    with writing(database):
        version = database.execute("PRAGMA user_version").fetchone()[0]
        for statement in _FROM_VERSION_1.strip().splitlines() if version == 1 else ():
            database.execute(statement)
        if version < 4:
            database.execute(PRINTED_WITH)
            _fill_printed_with(database)
        if version < VERSION:
            if version < 5:
                database.execute(_FROM_VERSION_4)
            for statement in _FROM_VERSION_5.strip().splitlines():
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")


def _fill_printed_with(database: sqlite3.Connection) -> None:
    """Move the addresses from the settings `known_at NAME` to their table.

    A line without that setting is of version 0.1.0, which knew the addresses of all lines together, in `known_at`: it
    may have been printed with any of them. That setting stays, for a bridge of 0.1.0 that still runs.
    """
    rows = database.execute(
        "SELECT name, coalesce((SELECT value FROM setting WHERE key = 'known_at ' || name),"
        " (SELECT value FROM setting WHERE key = 'known_at'), '') FROM line"
    ).fetchall()
    printed = [(name, address) for name, addresses in rows for address in addresses.split()]
    database.executemany("INSERT OR IGNORE INTO printed_with VALUES (?, ?)", printed)
    database.execute("DELETE FROM setting WHERE substr(key, 1, 9) = 'known_at '")


@contextmanager
def writing(database: sqlite3.Connection) -> Iterator[None]:
    """A transaction that has the file to itself from its start; all of it happens or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
