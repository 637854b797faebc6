"""Starts and ends services on hosts without systemd, such as containers."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess  # noqa: TID251  a command of root's, which has no reactor
import time
from dataclasses import dataclass
from pathlib import Path

import torknock
from torknock.kernel.proc import booted_at, command_line, started_at

_STARTS_WITHIN = 60.0
"""On a busy host Python alone takes seconds to start; a service that ends is noticed at once."""
_ENDS_WITHIN = 30.0
_ANSWERS_WITHIN = 2.0
_CREDENTIALS = struct.Struct("=iII")  # struct ucred, unix(7)


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A process: its id, and its start time in the kernel's ticks, because ids are used again."""

    pid: int
    since: int


def listener_pid(path: str) -> int | None:
    """The process that listens on the Unix socket at *path*; None if nothing answers there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWERS_WITHIN)
        try:
            probe.connect(path)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return None
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


def is_outdated(pid: int) -> bool:
    """Whether *pid* is a torknock process that started before the installed version was installed."""
    began = started_at(pid)
    if began is None or not _is_ours(pid):
        return False
    seconds = began / os.sysconf("SC_CLK_TCK")
    return booted_at() + 1 + seconds < _installed_at()  # the kernel gives the time of the boot in whole seconds


def has_arguments(pid: int, arguments: list[str]) -> bool:
    """Whether the command line of the process ends with *arguments*."""
    words = command_line(pid)
    return bool(words) and words[-len(arguments) :] == [os.fsencode(word) for word in arguments]


def _installed_at() -> float:
    """When torknock was installed: the newest ctime of its source files, in seconds since 1970."""
    packages = Path(torknock.__file__).parent, Path(torknock.__file__).parents[1] / "pluggable"
    return max(file.stat().st_ctime for package in packages for file in package.rglob("*.py"))


def _is_ours(pid: int) -> bool:
    return any(b"torknock" in word for word in command_line(pid))


def start(command: list[str], path: str, user: str, group: int, log: Path) -> StartedProcess | None:
    """Start *command* in the background, and let *group* open its socket at *path*, or all users if that is 0.

    It runs as *user*, who gets the socket's directory. None if it ends, or does not listen there within a minute.
    """
    Path(path).parent.mkdir(mode=0o755, exist_ok=True)
    shutil.chown(Path(path).parent, user)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as written:
        process = subprocess.Popen(  # noqa: S603  ours
            command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True, cwd="/"
        )
    gives_up = time.monotonic() + _STARTS_WITHIN
    while listener_pid(path) is None:
        if process.poll() is not None or time.monotonic() > gives_up:
            process.kill()
            return None
        time.sleep(0.05)  # noqa: TID251  a command of root's, which has no reactor
    _open_to(path, group)
    return StartedProcess(process.pid, started_at(process.pid) or 0)


def _open_to(path: str, group: int) -> None:
    """Let *group* open the socket at *path*, or all users if that is 0. Follows no link. Raises `OSError`."""
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)
        if group:
            os.chown(f"/proc/self/fd/{found}", -1, group)
        os.chmod(f"/proc/self/fd/{found}", 0o660 if group else 0o666)
    finally:
        os.close(found)


def end_listener(path: str) -> None:
    """End the torknock service that listens at *path*, if there is one."""
    pid = listener_pid(path)
    if pid is not None and _is_ours(pid):
        end(StartedProcess(pid, started_at(pid) or 0))


def end(started: StartedProcess) -> None:
    """End the process, unless another has its id by now."""
    gives_up = time.monotonic() + _ENDS_WITHIN
    while started_at(started.pid) == started.since and time.monotonic() < gives_up:
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.pid, signal.SIGTERM)
        time.sleep(0.05)  # noqa: TID251  a command of root's, which has no reactor
