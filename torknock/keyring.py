"""The lines that a bridge has issued, its key, and the tokens that were accepted: SQLite, 0600, one directory.

Two files: `keyring.sqlite` changes when somebody issues or revokes a line, `spent.sqlite` with each connection, so that
`Keyring.changes` can tell of lines alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from torknock.errors import TorknockError
from torknock.line import DEFAULT_N, Line

_VERSION = 1
_PATIENCE = 10.0
"""Seconds that another process may hold the file."""

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}")

_LINES = """
CREATE TABLE line (
    name TEXT PRIMARY KEY,
    secret BLOB NOT NULL,
    n INTEGER NOT NULL,
    sni TEXT,
    channel TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT;
CREATE TABLE setting (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
"""

_SPENT = "CREATE TABLE spent (epoch INTEGER, isn INTEGER, PRIMARY KEY (epoch, isn)) STRICT, WITHOUT ROWID;"


class KeyringUnreadable(TorknockError):
    """The keyring is there and cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"keyring {path}: {reason}; restore it from a backup, or name another with --keyring")
        self.path, self.reason = path, reason


class KeyringMissing(TorknockError):
    """There is no keyring where one was expected."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"there is no keyring in {path}; start the bridge once, or name another with --keyring")
        self.path = path


class LineExists(TorknockError):
    """A line's name was used before, by a line that lives or by one that was revoked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a line called {name} already; choose another name, or see torknock line list")
        self.name = name


class LineUnknown(TorknockError):
    """No line has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no line is called {name}; see torknock line list")
        self.name = name


class BadName(TorknockError):
    """A name that is none."""

    def __init__(self) -> None:
        super().__init__("a line's name is 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not begin with -")


@dataclass(frozen=True, slots=True)
class Issued:
    """A line, and what became of it. Times are seconds since 1970."""

    name: str
    line: Line
    created: int
    expires: int | None
    revoked: int | None

    def lives(self, now: float) -> bool:
        """Whether it opens the door at the time *now*."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Keyring:
    """The keyring in a directory, opened with `open`.

    Every method raises `KeyringUnreadable` if SQLite or the disk refuses.
    """

    def __init__(self, directory: Path, keyring: sqlite3.Connection, spent: sqlite3.Connection) -> None:
        self._directory = directory
        self._keyring = keyring
        self._spent = spent
        self.private_key: bytes = self._setting("private_key")
        """The bridge's P-256 key, PKCS #8 in DER."""
        self.pin = _pin(self.private_key)
        """SHA-256 of the key's SubjectPublicKeyInfo in DER (protocol.md §2.1)."""

    @classmethod
    def open(cls, directory: Path, create: bool) -> Self:
        """The keyring in *directory*; made, with a key of its own, if it is not there and *create* says so.

        The directory is 0700 and the files are 0600. What root makes belongs to the owner of the directory above, so
        that tor's transport can use it. Raises `KeyringMissing` and `KeyringUnreadable`.
        """
        with _refusals(directory):
            if not (directory / "keyring.sqlite").exists():
                if not create:
                    raise KeyringMissing(directory)
                _make_directory(directory)
            keyring = _database(directory / "keyring.sqlite", _LINES, "DELETE", "FULL")
            with _writing(keyring):
                known = keyring.execute("SELECT 1 FROM setting WHERE key = 'private_key'").fetchone()
                if known is None:
                    keyring.execute("INSERT INTO setting VALUES ('private_key', ?)", (_new_key(),))
            spent = _database(directory / "spent.sqlite", _SPENT, "WAL", "NORMAL")
            return cls(directory, keyring, spent)

    def close(self) -> None:
        """Let go of the files. May be called again."""
        self._keyring.close()
        self._spent.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(
        self,
        name: str,
        *,
        expires: int | None,
        now: float,
        n: int = DEFAULT_N,
        sni: str | None = None,
        channel: str = "tls",
    ) -> Issued:
        """Issue a line with a secret of its own. Raises `BadName` and `LineExists`."""
        if not _NAME.fullmatch(name):
            raise BadName
        row = (name, secrets.token_bytes(32), n, sni, channel, int(now), expires)
        with _refusals(self._directory):
            try:
                with _writing(self._keyring):
                    self._keyring.execute("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
            except sqlite3.IntegrityError:
                raise LineExists(name) from None
        return self.get(name)

    def get(self, name: str) -> Issued:
        """The line called *name*, whatever became of it. Raises `LineUnknown`."""
        for issued in self._read("WHERE name = ?", name):
            return issued
        raise LineUnknown(name)

    def lines(self) -> list[Issued]:
        """Every line that was ever issued, oldest first."""
        return self._read("ORDER BY created, rowid")

    def live(self, now: float) -> list[Issued]:
        """The lines that are neither revoked nor expired."""
        return self._read("WHERE revoked IS NULL AND (expires IS NULL OR expires > ?) ORDER BY created, rowid", now)

    def revoke(self, name: str, now: float) -> None:
        """Take the line back for good; one that was revoked before stays as it was. Raises `LineUnknown`."""
        with _refusals(self._directory), _writing(self._keyring):
            done = self._keyring.execute(
                "UPDATE line SET revoked = coalesce(revoked, ?) WHERE name = ?", (int(now), name)
            )
        if done.rowcount == 0:
            raise LineUnknown(name)

    def changes(self) -> int:
        """A number that is another one after any process has changed the lines; asking costs microseconds."""
        with _refusals(self._directory):
            others = self._keyring.execute("PRAGMA data_version").fetchone()[0]
            return int(others) << 32 | self._keyring.total_changes

    def setting(self, key: str) -> str | None:
        """What was remembered under *key*."""
        value = self._setting(key)
        return None if value is None else str(value)

    def set_setting(self, key: str, value: str) -> None:
        """Remember *value* under *key*."""
        with _refusals(self._directory), _writing(self._keyring):
            self._keyring.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, value))

    def spend(self, epoch: int, isn: int) -> None:
        """Write down that the token *isn* of *epoch* has opened a connection. It survives the process, not a power cut."""
        with _refusals(self._directory), _writing(self._spent):
            self._spent.execute("INSERT OR IGNORE INTO spent VALUES (?, ?)", (epoch, isn))

    def spent(self, epochs: Collection[int]) -> set[tuple[int, int]]:
        """The tokens of *epochs* that have opened a connection, as (epoch, ISN)."""
        with _refusals(self._directory):
            rows = self._spent.execute(
                "SELECT epoch, isn FROM spent WHERE epoch BETWEEN ? AND ?", (min(epochs), max(epochs))
            )
            return {(epoch, isn) for epoch, isn in rows if epoch in epochs}

    def forget_spent(self, before_epoch: int) -> None:
        """Forget the tokens of epochs before that one."""
        with _refusals(self._directory), _writing(self._spent):
            self._spent.execute("DELETE FROM spent WHERE epoch < ?", (before_epoch,))

    def _setting(self, key: str) -> Any:
        with _refusals(self._directory):
            row = self._keyring.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def _read(self, which: str, *arguments: object) -> list[Issued]:
        with _refusals(self._directory):
            rows = self._keyring.execute(
                f"SELECT name, secret, n, sni, channel, created, expires, revoked FROM line {which}",  # noqa: S608
                arguments,
            )
            return [
                Issued(name, Line(secret, self.pin, n, sni, channel=channel), *times)
                for name, secret, n, sni, channel, *times in rows
            ]


def _pin(private_key: bytes) -> bytes:
    public = load_der_private_key(private_key, None).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _new_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _make_directory(directory: Path) -> None:
    above = directory.parent
    while not above.exists():
        above = above.parent
    missing = [directory, *directory.parents][: len(directory.parts) - len(above.parts)]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _give_to(folder, above)


def _give_to(path: Path, above: Path) -> None:
    if os.geteuid() == 0:
        owner = above.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _database(path: Path, schema: str, journal: str, synchronous: str) -> sqlite3.Connection:
    """The database at *path*, made if there is none, so that nobody else can read it at any moment."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _give_to(path, path.parent)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        database.execute(f"PRAGMA synchronous = {synchronous}")
        with _writing(database):
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, schema.split(";")):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise KeyringUnreadable(path.parent, f"{path.name} was written by a newer torknock (version {version})")
        database.execute(f"PRAGMA journal_mode = {journal}")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    """A transaction that has the file to itself from its start; all of it happens or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


@contextmanager
def _refusals(directory: Path) -> Iterator[None]:
    """Turn what SQLite and the disk say into `KeyringUnreadable`."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        raise KeyringUnreadable(directory, str(error)) from error
    except OSError as error:
        raise KeyringUnreadable(directory, error.strerror or type(error).__name__) from error
