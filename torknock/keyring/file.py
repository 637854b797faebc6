"""The file of a keyring: SQLite, 0600, in a directory of its own.

It is built beside its place and renamed into it, so that one that is there is whole; its builder holds a lock on the
directory.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Timer

from torknock.errors import TorknockError
from torknock.kernel.files import as_owner
from torknock.kernel.lock import alone_in
from torknock.keyring.migration import PRINTED_WITH, VERSION, migrate

FILE = "keyring.sqlite"

TIMEOUT = 10.0
"""Seconds for which a command waits while another program holds the file."""

_MOMENT = 1.0
"""Seconds after which a command says that it waits."""
_SCHEMA = """
    PRAGMA journal_mode = DELETE;
    CREATE TABLE bridge (private_key BLOB NOT NULL) STRICT;
    CREATE TABLE line (
        name TEXT PRIMARY KEY,
        secret BLOB NOT NULL,
        n INTEGER NOT NULL,
        sni TEXT,
        scheme TEXT NOT NULL,
        channel TEXT NOT NULL,
        integrity INTEGER NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER,
        revoked INTEGER,
        note TEXT NOT NULL DEFAULT '',
        last_used INTEGER,
        connections INTEGER NOT NULL DEFAULT 0,
        cut INTEGER NOT NULL DEFAULT 0,
        shape INTEGER NOT NULL DEFAULT 0,
        pin BLOB, -- of the site; lines of other channels than web have the bridge's own
        path TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_PRIVATE = """
    PRAGMA secure_delete = ON;
    PRAGMA temp_store = MEMORY;
    PRAGMA synchronous = FULL;
"""
"""Set for each connection: what is erased is overwritten, and nothing is written beside the file but its journal."""

_FROM_BACKUP = "restore it from a backup, or name another with --keyring"
_MAKE_ROOM = "make room on its file system; nothing was changed"
_MAKE_WRITABLE = "mount its file system read-write; nothing was changed"
_BE_ITS_OWNER = "be the user that tor runs as, whose it must be, or root"
_LOOK_AT_THE_DISK = "look at the disk, with dmesg; nothing was changed"
_REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EROFS: _MAKE_WRITABLE,
    errno.EACCES: _BE_ITS_OWNER,
    errno.EPERM: _BE_ITS_OWNER,
    errno.EIO: _LOOK_AT_THE_DISK,
    errno.EMFILE: "let this process have more open files (ulimit -n)",
    errno.ENFILE: "let this host have more open files (sysctl fs.file-max)",
}
"""What to do about an error number of the system's; about any other, `_FROM_BACKUP`."""
_SQLITE_REMEDIES: Mapping[str, str] = {
    "SQLITE_FULL": _MAKE_ROOM,
    "SQLITE_READONLY": _MAKE_WRITABLE,
    "SQLITE_IOERR": _LOOK_AT_THE_DISK,
    "SQLITE_CANTOPEN": "look whether its directory can be written, and whether its file system is full",
}
"""The same for the names of SQLite's errors, or how they begin."""


class KeyringUnreadable(TorknockError):
    """The keyring is there and cannot be used."""

    def __init__(self, path: Path, reason: str, remedy: str = _FROM_BACKUP) -> None:
        super().__init__(f"keyring {path}: {reason}", remedy)
        self.reason = reason


class KeyringLocked(KeyringUnreadable):
    """Another program holds the keyring: at this moment it cannot be used."""

    def __init__(self, path: Path) -> None:
        remedy = "wait until that program, such as a backup, has ended, or end it, and try again"
        super().__init__(path, "another program holds it", remedy)


class KeyringMissing(TorknockError):
    """There is no keyring where one was expected."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"there is no keyring in {path}", "start the bridge once, or name another with --keyring")


def opened(
    directory: Path,
    create: bool,
    new_key: Callable[[], bytes],
    timeout: float,
    waits: Callable[[], object] | None = None,
) -> sqlite3.Connection:
    """The database in *directory*, made with a *new_key* if it is not there and *create* says so.

    Each of its statements waits *timeout* seconds for another program that holds the file; *waits*: see `refusals`.
    It may be used in one thread after the other.

    A directory that is made is 0700, the files are 0600; a directory that others can read or write is refused. What
    root makes below a directory of tor's user belongs to that user (`refusals`), so that tor's transport can use it.
    Raises `KeyringMissing` and `KeyringUnreadable`.
    """
    path = directory / FILE
    with refusals(directory, waits):
        if not path.exists():
            if not create:
                raise KeyringMissing(directory)
            _make_directory(directory)
            _check_private(directory)
            _build(path, new_key, wait=timeout > 0)
        _check_private(directory)
        return _connect(path, timeout)


def _make_directory(directory: Path) -> None:
    """Make *directory* and what is missing above it, private."""
    if not directory.exists():
        _make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _check_private(directory: Path) -> None:
    """Raise `KeyringUnreadable` if users other than its owner and root can list *directory*, or put files there."""
    if directory.stat().st_mode & 0o066:
        raise KeyringUnreadable(directory, "other users can read or write this directory", f"chmod 700 {directory}")


def _build(path: Path, new_key: Callable[[], bytes], wait: bool) -> None:
    """Make the database at *path* unless another process does; no process ever sees a part of it."""
    with alone_in(path.parent, wait) as directory:
        if path.exists():
            return
        draft = path.with_suffix(".draft")
        for remnant in path.parent.glob(f"{draft.name}*"):
            remnant.unlink()
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(draft, isolation_level=None)) as database:
            database.executescript(_PRIVATE + _SCHEMA + PRINTED_WITH)
            database.execute("INSERT INTO bridge VALUES (?)", (new_key(),))
            database.execute(f"PRAGMA user_version = {VERSION}")
        draft.rename(path)
        os.fsync(directory)


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    """The database at *path*, which no other user can read."""
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # to close another kind would drop SQLite's locks
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            raise KeyringUnreadable(path.parent, f"{path.name} is no regular file")
        if mode & 0o077:
            os.chmod(f"/proc/self/fd/{file}", 0o600)
    except PermissionError:
        raise KeyringUnreadable(path.parent, f"others can read {path.name}", f"chmod 600 {path}") from None
    finally:
        os.close(file)
    for companion in ("-journal", "-wal", "-shm"):
        _refuse_other_kinds(path.with_name(path.name + companion))
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number))
    where = f"{path.absolute().as_uri()}?mode=rw"
    database = sqlite3.connect(where, timeout, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.executescript(_PRIVATE)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise KeyringUnreadable(
                path.parent, f"{path.name} was written by a newer torknock (version {version})", "update this torknock"
            )
        if 1 <= version < VERSION:
            migrate(database)
        elif version != VERSION:
            raise KeyringUnreadable(path.parent, f"{path.name} is no keyring of torknock")
    except BaseException:
        database.close()
        raise
    return database


def _refuse_other_kinds(path: Path) -> None:
    """See to it that SQLite, which opens what is at *path*, does not wait there: at a pipe, for instance."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise KeyringUnreadable(path.parent, f"{path.name} is no regular file", f"remove {path}")


@contextmanager
def refusals(directory: Path, waits: Callable[[], object] | None = None) -> Iterator[None]:
    """Touch the keyring in *directory* as its owner, and turn what SQLite and the disk say into `KeyringUnreadable`.

    *waits* is called, in a thread of its own, if that takes more than a moment.
    """
    try:
        with as_owner(directory), _called_after_a_moment(waits):
            yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            raise KeyringLocked(directory) from error
        said = str(error)  # it may quote what is damaged
        remedies = (remedy for kind, remedy in _SQLITE_REMEDIES.items() if name.startswith(kind))
        reason = said if said.isprintable() else "it is damaged"
        raise KeyringUnreadable(directory, reason, next(remedies, _FROM_BACKUP)) from error
    except UnicodeDecodeError as error:
        raise KeyringUnreadable(directory, "it is damaged") from error
    except BlockingIOError as error:
        raise KeyringLocked(directory) from error
    except OSError as error:
        reason = "permission denied" if isinstance(error, PermissionError) else error.strerror or type(error).__name__
        raise KeyringUnreadable(directory, reason, _REMEDIES.get(error.errno or 0, _FROM_BACKUP)) from error


@contextmanager
def _called_after_a_moment(waits: Callable[[], object] | None) -> Iterator[None]:
    if waits is None:
        yield
        return
    timer = Timer(_MOMENT, waits)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
