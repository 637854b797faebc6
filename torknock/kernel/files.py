"""Files: replaced as a whole, and read up to a limit, also where another user may have put something else.

And files that only root may change: which directory would let another user replace one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

ROOT = (0,)
"""The uids of those who may change what is root's."""

_LINKS_AT_MOST = 40
"""So many the kernel follows, too (path_resolution(7))."""

_STEPS_AT_MOST = 4096
"""Names and links that a way may have: more than a path has octets (PATH_MAX)."""


def replace_file(path: Path, octets: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Put a file with *octets* at *path*: the old file or the whole new one is there, also after a power failure.

    *owner* is a uid and a gid; this process' own unless given. The file and its directory are synced. Raises `OSError`,
    and then leaves the old file as it was.
    """
    os.close(replaced(path, octets, mode, owner))


def replaced(path: Path, octets: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> int:
    """As `replace_file`; returns a descriptor of the new file, to read and write, which the caller closes."""
    draft = draft_of(path)
    draft.unlink(missing_ok=True)
    written = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if owner is not None:
            os.fchown(written, *owner)
        os.fchmod(written, mode)  # whatever the umask is
        left = memoryview(octets)
        while left:
            left = left[os.write(written, left) :]
        os.fsync(written)
        draft.replace(path)
        sync_directory(path.parent)
    except BaseException:
        os.close(written)
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    return written


def draft_of(path: Path) -> Path:
    """Where the next file for *path* is written. Each file has its own; an interrupted process leaves it behind."""
    return path.with_name(f".{path.name}.torknock")


def sync_directory(directory: Path) -> None:
    """Return once the names in *directory* are on the disk. Raises `OSError`."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def read_own(path: Path, at_most: int) -> bytes:
    """The octets of the regular file at *path*, or where a link leads, in a directory of this process' own user.

    Raises `OSError`, also if it is no regular file, or holds more than *at_most* octets.
    """
    return _limited(path, _read(_opened(path), path, at_most + 1, from_end=False), at_most)


def read_file(path: Path, at_most: int) -> bytes:
    """As `read_own`, in any directory.

    Root reads it as the first other user who owns a directory on the way: that user may have put a link, a pipe or a
    device there.
    """
    return _limited(path, _read(_opened_as_owner(path), path, at_most + 1, from_end=False), at_most)


def read_end(path: Path, at_most: int) -> bytes:
    """The last *at_most* octets of the file at *path*, else as `read_file`."""
    return _read(_opened_as_owner(path), path, at_most, from_end=True)


def _limited(path: Path, octets: bytes, at_most: int) -> bytes:
    if len(octets) > at_most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return octets


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _opened_as_owner(path: Path) -> int:
    with _acting_as(_first_owner_of_directories(path.absolute())):
        return _opened(path)


def _read(opened: int, path: Path, size: int, from_end: bool) -> bytes:
    with open(opened, "rb") as file:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if from_end:
            file.seek(max(found.st_size - size, 0))
        return file.read(size)


def acts_as_owner(path: Path) -> bool:
    """Whether `as_owner` changes the identity of this process, and so of all its threads."""
    return os.geteuid() == 0 and _first_owner(path.absolute()) is not None


def as_owner(path: Path) -> AbstractContextManager[None]:
    """As root, act as the first other user along the way to *path*, in none but that user's group.

    Who owns a directory can put a link wherever something below it is expected, and root would follow it.
    """
    return _acting_as(_first_owner(path.absolute()))


def directory_of_others(path: Path, trusted: Collection[int] = ROOT) -> Path | None:
    """The first directory on the way to *path*, or link, that users not *trusted* can change; None if there is none.

    Links are followed one by one. In a sticky directory only root and a file's owner replace the file. Raises
    `OSError`.
    """
    place, ahead = Path("/"), list(reversed(path.absolute().parent.parts))
    for _ in range(_STEPS_AT_MOST):
        found = place.lstat()
        link = stat.S_ISLNK(found.st_mode)
        shared = not link and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if shared or found.st_uid not in trusted:
            return place
        if link:
            ahead += reversed(place.readlink().parts)
            place = place.parent
        elif ahead:
            place /= ahead.pop()
        else:
            return None
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


@contextmanager
def _acting_as(owner: os.stat_result | None) -> Iterator[None]:
    if owner is None or os.geteuid() != 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _first_owner_of_directories(path: Path) -> os.stat_result | None:
    """What is known of the first directory that is not root's, on the way to *path* and on to where links lead."""
    for _ in range(_LINKS_AT_MOST):
        found = _first_owner(path.parent)
        if found is not None or not path.is_symlink():
            return found
        path = path.parent / path.readlink()
    return None


def _first_owner(path: Path) -> os.stat_result | None:
    """What is known of the first directory, or link, on the way to *path* that is not root's; None if all are."""
    for place in (*reversed(path.parents), path):
        for follow_symlinks in (False, True):
            try:
                found = os.stat(place, follow_symlinks=follow_symlinks)
            except OSError:  # it is not there, or leads nowhere
                return None
            if found.st_uid != 0:
                return found
    return None
