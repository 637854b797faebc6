"""Issues, lists, changes, revokes and advances the lines in a keyring (`torknock.keyring.file`)."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from torknock.keyring.file import FILE, TIMEOUT, KeyringUnreadable, opened, refusals
from torknock.keyring.issued import Issued, News
from torknock.keyring.key import key_in, new_key, pin_of
from torknock.keyring.line_errors import LineErased, LineExists, LineRevoked, LineUnknown, check_name, check_note
from torknock.keyring.migration import writing
from torknock.keyring.rows import COLUMNS, DAY, INSERT, issued_of, pin_in
from torknock.keyring.site_settings import site_path
from torknock.protocol.bridge_line import DEFAULT_N, USUAL, Channel, Line, Scheme, arguments, parse_arguments
from torknock.protocol.token import NEIGHBOURS, RATCHETED, epoch_at, forward, ratchet

POSTURE = "posture"
"""The setting that has the posture of the bridge's port, as the transport that ran last wrote it."""

_ENDED = "WHERE secret != x'' AND (revoked IS NOT NULL OR expires <= ?)"
"""Lines that open nothing any more and still have their secret."""

_RAISE_REVISION = """
    INSERT INTO setting VALUES ('revision', '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1
"""
"""Part of every transaction after which a bridge must read the lines again."""

_MOST_REVISIONS = 1 << 40
"""More changes than any keyring sees."""


class Keyring:
    """The keyring in a directory, opened with `open`.

    Every method raises `KeyringUnreadable` if SQLite or the disk refuses.
    """

    def __init__(
        self,
        directory: Path,
        database: sqlite3.Connection,
        timeout: float = TIMEOUT,
        waits: Callable[[], object] | None = None,
    ) -> None:
        self.directory = directory
        self._database = database
        self._timeout, self._waits = timeout, waits
        self._replaced = 0
        with self._refusals():
            self._inode = (directory / FILE).stat().st_ino
            self.private_key: bytes = key_in(database)
        """The bridge's P-256 key, PKCS #8 in DER."""
        self.pin = pin_of(self.private_key, directory)
        """SHA-256 of the key's SubjectPublicKeyInfo in DER (protocol.md §2.1)."""

    @classmethod
    def open(
        cls, directory: Path, create: bool, timeout: float = TIMEOUT, waits: Callable[[], object] | None = None
    ) -> Self:
        """The keyring in *directory*; made, with a key of its own, if it is not there and *create* says so.

        While another program holds it, every call waits *timeout* seconds, calls *waits*, in another thread, after
        the first, and then raises `KeyringLocked`. Whose the keyring is that is made: see `opened`.
        Raises `KeyringMissing` and `KeyringUnreadable`.
        """
        database = opened(directory, create, new_key, timeout, waits)
        try:
            return cls(directory, database, timeout, waits)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Close the file. May be called again."""
        self._database.close()

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
        scheme: Scheme = Scheme.TOKEN,
        channel: Channel | None = None,
        integrity: int = 0,
        shape: bool = False,
        secret: bytes | None = None,
        note: str = "",
        site_pin: bytes | None = None,
    ) -> Issued:
        """Issue a line. Its *channel* is that of its *scheme* unless named, its *secret* a new one unless given.

        With channel `web` its pin is *site_pin*. Raises `BadName`, `BadNote`, `LineExists`, else `LineError`.
        """
        check_name(name)
        check_note(note)
        channel = channel or USUAL[scheme]
        pin, path = pin_in(scheme, channel, self.pin, site_pin), site_path(self) if channel is Channel.WEB else ""
        secret = secret or _new_secret(scheme, now)
        line = parse_arguments(arguments(Line(secret, pin, n, sni, scheme, channel, integrity, shape, path)))
        row = (
            name, line.secret, line.n, line.sni, line.scheme, line.channel, line.integrity, int(now), expires, note,
            line.shape, pin if channel is Channel.WEB else None, path,
        )  # fmt: skip
        with self._refusals(), writing(self._database):
            if self._database.execute(INSERT, row).rowcount == 0:
                raise LineExists(name)
            self._database.execute(_RAISE_REVISION)
        return Issued(name, line, int(now), expires, None, note)

    def get(self, name: str) -> Issued:
        """The line called *name*, whatever became of it. Raises `BadName` and `LineUnknown`."""
        check_name(name)
        for issued in self._read("WHERE name = ?", name):
            return issued
        raise LineUnknown(name)

    def lines(self) -> list[Issued]:
        """Every line that was ever issued, oldest first."""
        return self._read("ORDER BY created, rowid")

    def live(self, now: float) -> list[Issued]:
        """The lines that are neither revoked nor expired."""
        return self._read(
            "WHERE revoked IS NULL AND secret != x'' AND (expires IS NULL OR expires > ?) ORDER BY created, rowid", now
        )

    def revoke(self, name: str, now: float, cut: bool = False) -> None:
        """Revoke the line permanently, and with *cut* end its connections; what was done before stays done.

        Its secret is erased. Raises `BadName` and `LineUnknown`.
        """
        self._change(name, "secret = x'', revoked = coalesce(revoked, ?), cut = max(cut, ?)", int(now), cut)

    def withdraw(self, name: str) -> None:
        """Delete the line, which was never handed out: its name is free again. Raises `BadName` and `LineUnknown`."""
        self.get(name)
        with self._refusals(), writing(self._database):
            self._database.execute("DELETE FROM line WHERE name = ?", (name,))
            self._database.execute("DELETE FROM printed_with WHERE line = ?", (name,))
            self._database.execute(_RAISE_REVISION)

    def erase(self, now: float) -> int:
        """Erase the secrets of the lines that are revoked or have expired; returns how many there were."""
        with self._refusals():
            if self._database.execute(f"SELECT 1 FROM line {_ENDED}", (now,)).fetchone() is None:  # noqa: S608  ours
                return 0
            with writing(self._database):
                return self._database.execute(f"UPDATE line SET secret = x'' {_ENDED}", (now,)).rowcount  # noqa: S608

    def advance(self, epoch: int, at_most: int) -> int:
        """Let *at_most* lines begin with *epoch* that began earlier; returns how many there were.

        Nothing that was derived before can be derived from the keyring then. Lines of version 1, and of scheme
        `knock`, stay as they are.
        """
        if epoch < 0:
            return 0
        with self._refusals(), writing(self._database):
            rows = self._database.execute(
                "SELECT rowid, secret FROM line"
                " WHERE scheme = 'token' AND length(secret) = ? AND substr(secret, -8) < ? LIMIT ?",
                (RATCHETED, epoch.to_bytes(8), at_most),
            ).fetchall()
            advanced = [(forward(secret, epoch), rowid) for rowid, secret in rows]
            self._database.executemany("UPDATE line SET secret = ? WHERE rowid = ?", advanced)
        return len(rows)

    def set_note(self, name: str, note: str) -> None:
        """Write *note* about the line, instead of what was noted before. Raises `BadName`, `BadNote`, `LineUnknown`."""
        check_note(note)
        self._change(name, "note = ?", note)

    def set_expiry(self, name: str, expires: int | None) -> None:
        """Let the line open until *expires*, seconds since 1970, or for ever.

        Raises `BadName`, `LineUnknown`, `LineRevoked` and `LineErased`.
        """
        try:
            self._change(name, "expires = ?", expires, which="AND revoked IS NULL AND secret != x''")
        except LineUnknown:
            ended = self.get(name)
            raise (LineErased if ended.revoked is None else LineRevoked)(name) from None

    def count(self, used: Mapping[str, int], now: float) -> None:
        """Write down that each line, by its name, has opened so many more connections, and that it was today."""
        with self._refusals(), writing(self._database):
            self._database.executemany(
                "UPDATE line SET connections = connections + ?, last_used = max(coalesce(last_used, 0), ?)"
                " WHERE name = ?",
                [(number, int(now) // DAY, name) for name, number in used.items()],
            )

    def changes(self) -> int:
        """A number that is another one after any process has changed the lines; asking costs microseconds.

        What is counted is no change. A file that was put in the place of this keyring's, such as a backup of it, is
        opened if it has the same key.
        """
        with self._refusals():
            if (self.directory / FILE).stat().st_ino != self._inode:
                self._open_again()
            row = self._database.execute("SELECT CAST(value AS INTEGER) FROM setting WHERE key = 'revision'").fetchone()
        return (0 if row is None else int(row[0])) + self._replaced * _MOST_REVISIONS

    def news(self, known: int | None) -> News | None:
        """Every line, if `changes` tells another number than *known*; else None."""
        changes = self.changes()
        return None if changes == known else News(changes, tuple(self.lines()))

    def _refusals(self) -> AbstractContextManager[None]:
        return refusals(self.directory, self._waits)

    def _open_again(self) -> None:
        inode = (self.directory / FILE).stat().st_ino  # before: one that is replaced now is opened the next time
        database = opened(self.directory, create=False, new_key=new_key, timeout=self._timeout)
        try:
            if key_in(database) != self.private_key:
                remedy = "put this bridge's own back, or restart tor to serve the lines of the other"
                raise KeyringUnreadable(self.directory, "the keyring of another bridge was put in its place", remedy)
        except BaseException:
            database.close()
            raise
        self._database.close()
        self._database, self._inode = database, inode
        self._replaced += 1

    def setting(self, key: str) -> str | None:
        """What was remembered under *key*."""
        with self._refusals():
            row = self._database.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def make_known_at(self, name: str, address: str) -> None:
        """Remember that the line called *name* was printed with *address*. Raises `BadName` and `LineUnknown`."""
        with self._refusals(), writing(self._database):
            self.get(name)
            done = self._database.execute("INSERT OR IGNORE INTO printed_with VALUES (?, ?)", (name, address))
            if done.rowcount:
                self._database.execute(_RAISE_REVISION)

    def set_setting(self, key: str, value: str) -> None:
        """Remember *value* under *key*; where it is already, nothing is written."""
        if self.setting(key) == value:
            return
        with self._refusals(), writing(self._database):
            self._database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, value))

    def remember_first(self, key: str, value: str) -> str:
        """What is remembered under *key*, which is *value* if nothing was."""
        with self._refusals(), writing(self._database):
            self._database.execute("INSERT OR IGNORE INTO setting VALUES (?, ?)", (key, value))
        return self.setting(key) or ""

    def _change(self, name: str, what: str, *values: object, which: str = "") -> None:
        check_name(name)
        with self._refusals(), writing(self._database):
            done = self._database.execute(
                f"UPDATE line SET {what} WHERE name = ? {which}",  # noqa: S608  all of it is ours
                (*values, name),
            )
            if done.rowcount == 0:
                raise LineUnknown(name)
            self._database.execute(_RAISE_REVISION)

    def _read(self, which: str, *arguments: object) -> list[Issued]:
        with self._refusals():
            rows = self._database.execute(
                f"SELECT {COLUMNS} FROM line {which}",  # noqa: S608  all of it is ours
                arguments,
            )
            lines = [issued_of(row, self.pin) for row in rows]
        whole = [line for line in lines if line is not None]
        if len(whole) < len(lines):
            raise KeyringUnreadable(self.directory, "a line in it is damaged")
        return whole


def _new_secret(scheme: Scheme, now: float) -> bytes:
    """A secret for a line that opens from *now* on, also for clients whose clock is an epoch behind."""
    if scheme is Scheme.KNOCK:
        return secrets.token_bytes(32)
    return ratchet(secrets.token_bytes(32), secrets.token_bytes(32), max(0, epoch_at(now) - NEIGHBOURS))
