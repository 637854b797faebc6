"""What has opened a connection, on disk: what is there opens nothing for a second time.

A file is a header and records of a fixed size, each with a checksum. The header is replaced with the whole file, by
one that is complete and synced before it takes the old one's name. Records are written one by one into room that was
reserved before a token was admitted, so that a full disk is found out then. Slots that are all zeros are empty; a
record whose checksum is wrong was cut off while it was written, before its connection was answered.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from zlib import crc32

from twisted.internet.defer import Deferred, execute, maybeDeferred
from twisted.python.failure import Failure

from torknock.errors import TorknockError
from torknock.kernel.files import read_own, replaced
from torknock.protocol.token import NEIGHBOURS

_CHECK = struct.Struct("!I")
_HEADER = struct.Struct("!8sQ")
_MAGIC = b"torknock"
_LARGEST = 1 << 28
"""Octets of a file: many more than the tokens of three epochs take."""


class SpentUnusable(TorknockError):
    """What was spent cannot be read or written, so the port must be closed."""

    def __init__(self, path: Path, reason: str, remedy: str = "make room for it, or let tor's user write it") -> None:
        super().__init__(f"{path}: {reason}", remedy)


class _Records:
    """The file at *path*, made if it is not there, 0600. Every method raises `SpentUnusable` if the disk refuses.

    It is for one process at a time: the one that holds the door.
    """

    fields: struct.Struct
    remedy: str

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._sound = False
        """Whether it was read, and every write since has succeeded."""
        self._end = 0
        """Where the next record is written."""
        self._room = 0
        """Where the room that is reserved ends."""

    @property
    def _size(self) -> int:
        return self.fields.size + _CHECK.size

    def reserve(self, count: int) -> None:
        """Have room on the disk for *count* more records."""
        with self._refusals():
            wanted = self._end + count * self._size
            if wanted > self._room:
                os.posix_fallocate(self._opened(), self._room, wanted - self._room)
                self._room = wanted

    def handle(self) -> int:
        """A descriptor of the file, for `sync`, and the caller's to close."""
        with self._refusals():
            return os.dup(self._opened())

    def close(self) -> None:
        """Let go of the file. May be called again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def sync(self, handle: int) -> None:
        """Return once what was written before is on the disk; it may be called in a thread. Closes *handle*."""
        try:
            with self._refusals():
                os.fdatasync(handle)
        finally:
            os.close(handle)

    def _append(self, *fields: int) -> None:
        octets = _checked(self.fields.pack(*fields))
        with self._refusals():
            file = self._opened()
            if self._is_removed():
                raise OSError(0, "it was removed or replaced while the bridge runs")
            if os.pwrite(file, octets, self._end) != len(octets):
                raise OSError(0, "a record was cut off: the disk is full")
            self._end += len(octets)

    def _load(self) -> tuple[int, set[tuple[int, ...]]]:
        """The number in the header and the records: those of the file at its place, and of the one that is open."""
        own = b"" if self._file is None else os.pread(self._file, self._end, 0)
        if own and not self._is_removed():
            return self._parsed(own)
        number, found = self._parsed(self._on_disk())
        if own:
            other, more = self._parsed(own)
            number, found = max(number, other), found | more
        return number, found

    def _on_disk(self) -> bytes:
        try:
            return read_own(self._path, _LARGEST)
        except FileNotFoundError:
            return b""

    def _is_removed(self) -> bool:
        """Whether what is written to the file that is open cannot be found by the next process."""
        if self._file is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            return not os.path.samestat(os.fstat(self._file), self._path.stat(follow_symlinks=False))
        return True

    def _parsed(self, octets: bytes) -> tuple[int, set[tuple[int, ...]]]:
        start = _HEADER.size + _CHECK.size
        written = len(octets.rstrip(b"\0"))  # what follows is room that was reserved
        slots = [octets[at : at + self._size] for at in range(start, written, self._size)]
        whole = [at for at, slot in enumerate(slots) if len(slot) == self._size and _checks(slot)]
        header = octets[:start]
        if octets and not (header.startswith(_MAGIC) and _checks(header)):
            if whole or octets.startswith(_MAGIC):
                raise SpentUnusable(self._path, "it is damaged", self.remedy)
            return self._parsed_unchecked(octets)
        if any(slot.strip(b"\0") and not _checks(slot) for slot in slots[: whole[-1] if whole else 0]):
            raise SpentUnusable(self._path, "a record in it is damaged", self.remedy)
        number = _HEADER.unpack(header[: _HEADER.size])[1] if octets else 0
        return number, {self.fields.unpack(slots[at][: self.fields.size]) for at in whole}

    def _parsed_unchecked(self, octets: bytes) -> tuple[int, set[tuple[int, ...]]]:
        """What a file holds that was written before there were headers and checksums."""
        return 0, set(self.fields.iter_unpack(octets[: len(octets) // self.fields.size * self.fields.size]))

    def _replace(self, number: int, records: Iterable[tuple[int, ...]]) -> None:
        """Put a file with *number* and *records* in the place of the one that is there, once it is on the disk."""
        octets = _checked(_HEADER.pack(_MAGIC, number))
        octets += b"".join(_checked(self.fields.pack(*each)) for each in sorted(records))
        written = replaced(self._path, octets)
        self.close()
        self._file, self._sound, self._end, self._room = written, True, len(octets), len(octets)

    def _opened(self) -> int:
        if self._file is None or not self._sound:
            raise OSError(0, "it must be read before it is written")
        return self._file

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._sound = False
            raise SpentUnusable(self._path, error.strerror or "unusable") from error


class SpentTokens(_Records):
    """The tokens: records of epoch and ISN, big-endian. The header tells the highest epoch that was ever present."""

    fields = struct.Struct("!QI")
    remedy = "stop tor, remove the file 15 minutes later, and start tor"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._highest = 0

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def highest(self) -> int:
        """The highest epoch that `enter` was given, now or in an earlier process."""
        return self._highest

    @property
    def floor(self) -> int:
        """The lowest epoch whose tokens may still be admitted: what was spent before is forgotten."""
        return max(0, self._highest - NEIGHBOURS)

    def enter(self, epoch: int, known: Collection[tuple[int, int]] = ()) -> set[tuple[int, int]]:
        """What was spent of the epochs from `floor` on, as (epoch, ISN), *known* included, now that *epoch* is present.

        Afterwards, on the disk, no epoch that is lower than `floor` comes back.
        """
        with self._refusals():
            highest, found = self._load()
            self._highest = max(highest, epoch, self._highest)
            kept = {fields for fields in found | set(known) if fields[0] >= self.floor}
            if not self._sound or self._is_removed() or highest < self._highest or not kept <= found:
                self._replace(self._highest, kept)
        return {(spent, isn) for spent, isn in kept}

    def add(self, epoch: int, isn: int) -> None:
        """Write a token down. `enter` comes before the first; `sync` says when it is on the disk."""
        self._append(epoch, isn)

    def _parsed_unchecked(self, octets: bytes) -> tuple[int, set[tuple[int, ...]]]:
        _, found = super()._parsed_unchecked(octets)
        highest = max((epoch for epoch, _ in found), default=0)
        if highest >= 2**32:
            raise SpentUnusable(self._path, "it is damaged", self.remedy)
        return max(0, highest - NEIGHBOURS), found


class SpentKnocks(_Records):
    """The knocks: records of `judge.tag`, ISN and TSval, big-endian."""

    fields = struct.Struct("!QII")
    remedy = "revoke every line of scheme knock, stop tor, remove the file, and start tor"

    def read(self, tags: Collection[int]) -> set[tuple[int, int, int]]:
        """The knocks with *tags*, as (tag, ISN, TSval); those with others are forgotten."""
        with self._refusals():
            kept = {each for each in self._load()[1] if each[0] in tags}
            self._replace(0, kept)
        return {(tag, isn, tsval) for tag, isn, tsval in kept}

    def add(self, tag: int, isn: int, tsval: int) -> None:
        """Write a knock down. `read` comes before the first; `sync` says when it is on the disk."""
        self._append(tag, isn, tsval)


class GroupSync:
    """Tells when records are on the disk, of many at once: one sync is under way at a time.

    *in_thread* runs a function with its arguments so that the reactor does not wait for it.
    """

    def __init__(self, records: _Records, in_thread: Callable[..., Deferred[None]]) -> None:
        self._records, self._in_thread = records, in_thread
        self._waiting: list[Deferred[None]] = []
        self._busy = False

    def synced(self) -> Deferred[None]:
        """Fires once what was written so far is on the disk; fails with `SpentUnusable`."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if not self._busy:
            self._next()
        return waiting

    def _next(self) -> None:
        served, self._waiting = self._waiting, []
        self._busy = bool(served)
        if served:
            syncing = maybeDeferred(self._records.handle).addCallback(self._sync)
            syncing.addBoth(self._done, served)

    def _sync(self, handle: int) -> Deferred[None]:
        try:
            return self._in_thread(self._records.sync, handle)
        except RuntimeError:  # no thread can be had now: the reactor waits for the disk
            return execute(self._records.sync, handle)

    def _done(self, result: Failure | None, served: list[Deferred[None]]) -> None:
        for each in served:
            each.callback(result)
        self._next()


def _checked(octets: bytes) -> bytes:
    return octets + _CHECK.pack(crc32(octets))


def _checks(octets: bytes) -> bool:
    return _checked(octets[: -_CHECK.size]) == octets
