"""Which tokens this client has used: on disk, so that a client that restarts uses none twice (protocol.md §2.4).

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

from torknock.client.memory_file import is_damage, is_held, opened
from torknock.errors import TorknockError
from torknock.kernel.lock import alone_in
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import epoch_at

_log = Logger()

_NAME = "knocks.sqlite"
_CLAIM = "INSERT OR IGNORE INTO used VALUES (?, ?, ?) RETURNING isn"
_DEVICE = "INSERT OR IGNORE INTO device VALUES (1, ?)"

KEPT = 22
"""Epochs from a token's own to the one in which it is forgotten: more than any clock is wrong that finds its bridge.

That is within two hours of its use, as tokens of the next epoch may be used; of a search, up to 15 minutes later.
"""


class MemoryHeld(TorknockError):
    """Another program holds the file at *path*: whether a token was used cannot be known at this moment."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is held by another program, such as a backup, and without it a token could be used twice",
            "wait until that program has ended, or end it",
        )


def line_id(line: Line) -> bytes:
    """A name for *line* that tells nothing of its secret: 16 bytes of SHA-256 over a label and what names the line."""
    return hashlib.sha256(b"torknock/1 memory\0" + line.secret + line.bridge_name).digest()[:16]


class Memory:
    """The used tokens, in the file `knocks.sqlite` of *directory*, which two processes may share.

    A damaged file, or one that is too large, is put aside. Where none can be kept, what this process used is still
    remembered until it ends. While another program holds the file, `claim`, `used` and `start` raise `MemoryHeld`.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._own: set[tuple[int, bytes, int]] = set()
        self._file: sqlite3.Connection | None = None
        self._device: bytes | None = None
        self._left_over = True
        """Whether the write-ahead log may hold what was forgotten."""
        self._inode = 0
        """Of the file that was opened; 0 before there was one."""
        self._untried = True
        """Whether the file is to be opened yet, because another program has held it since the beginning."""
        with contextlib.suppress(MemoryHeld):
            self._begin()

    def claim(self, line: bytes, epoch: int, isn: int) -> bool:
        """Write a token down as used; False if it was before, perhaps by another process at this moment."""
        token = (epoch, line, isn)
        if token in self._own:
            return False
        if self._untried:
            self._begin()
        self._own.add(token)
        try:
            inserted = self._execute(_CLAIM, token)
        except MemoryHeld:
            self._own.discard(token)
            raise
        return inserted is None or bool(inserted)

    def unclaim(self, line: bytes, epoch: int, isn: int) -> None:
        """The token was not sent after all. It stays used if another program holds the file."""
        with contextlib.suppress(MemoryHeld):
            self._execute("DELETE FROM used WHERE (epoch, line, isn) = (?, ?, ?)", (epoch, line, isn))
            self._own.discard((epoch, line, isn))

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
            self._execute(_DEVICE, (drawn,))
            [(stored,)] = self._execute("SELECT number FROM device LIMIT 1", ()) or [(drawn,)]
            self._device = stored if isinstance(stored, bytes) and len(stored) == len(drawn) else drawn
        return self._device

    def forget(self, epoch: int) -> None:
        """Forget what was used `KEPT` epochs before *epoch*, the present one, or earlier.

        No file of the directory holds it afterwards, unless another process reads or writes at this moment: then the
        next call sees to that.
        """
        oldest = epoch - KEPT
        self._own = {token for token in self._own if token[0] > oldest}
        with contextlib.suppress(MemoryHeld):
            self._left_over |= bool(self._execute("DELETE FROM used WHERE epoch <= ? RETURNING isn", (oldest,)))
            if self._left_over:
                busy = self._execute("PRAGMA wal_checkpoint(TRUNCATE)", ())
                self._left_over = not busy or bool(busy[0][0])
        with contextlib.suppress(OSError):
            if epoch_at(self._aside.stat().st_mtime) <= oldest:
                self._aside.unlink()

    def close(self) -> None:
        """Let go of the file."""
        self._untried = False
        if self._file is not None:
            self._file.close()
            self._file = None

    def _execute(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any]] | None:
        """The rows that *statement* yields; None where there is no file, or none any more."""
        if self._untried:
            self._begin()
        if self._file is None:
            return None
        try:
            return self._file.execute(statement, values).fetchall()
        except Exception as error:  # noqa: BLE001  a damaged file may raise anything
            self._failed(error)
            return None

    def _open(self) -> None:
        """Open the file, and write down in it what this process has used."""
        self._file = opened(self._path)
        self._inode = self._path.stat().st_ino
        for token in self._own:
            self._file.execute(_CLAIM, token)
        if self._device is not None:
            self._file.execute(_DEVICE, (self._device,))

    def _begin(self) -> None:
        try:
            with alone_in(self._path.parent, wait=False):
                self._open()
        except Exception as error:  # noqa: BLE001  a damaged file may raise anything
            self._failed(error)
        self._untried = False

    def _failed(self, error: Exception) -> None:
        if is_held(error):
            raise MemoryHeld(self._path) from error
        self.close()
        if is_damage(error):
            self._begin_again(error)
        else:
            self._go_without(error)

    @property
    def _aside(self) -> Path:
        return self._path.with_suffix(".damaged")

    def _begin_again(self, error: Exception) -> None:
        """Go on in a new file, with what this process has used. Another process may have begun it already."""
        try:
            with alone_in(self._path.parent, wait=False):
                if self._inode in (0, self._path.stat().st_ino):
                    self._put_aside(error)
                self._open()
        except Exception as also:
            if is_held(also):
                self._untried = True
                raise MemoryHeld(self._path) from also
            self._go_without(also)

    def _put_aside(self, error: Exception) -> None:
        _log.error(
            "{path} cannot be read: {reason}; it is kept as {aside}, and a knock of the last minutes may be repeated",
            path=str(self._path), aside=self._aside.name, reason=str(error),
        )  # fmt: skip
        os.replace(self._path, self._aside)
        for part in ("-wal", "-shm", "-journal"):
            self._path.with_name(_NAME + part).unlink(missing_ok=True)

    def _go_without(self, error: Exception) -> None:
        self.close()
        _log.error(
            "{path} cannot be used: {reason}; knocks of the last minutes may be repeated when this process restarts",
            path=str(self._path), reason=str(error),
        )  # fmt: skip
