"""Descriptors that peers pass to a service, which wants none: refused, or closed where a wait does no harm.

close(2) can wait for as long as a peer has chosen, for example for a TCP socket with SO_LINGER and unsent data. That
holds for descriptors that were received, and for those that are still in a Unix socket when it is closed. So the
reactor closes neither. A child that has them open too exits after this process has closed its own: the kernel does not
linger in a process that exits. A thread does this, since closing a descriptor may still wait for its file system.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess  # noqa: TID251  in a thread
import threading
from collections import deque
from collections.abc import Sequence

from torknock.linux import SO_PASSRIGHTS

_THREADS = 4
"""A thread may be held by a file system of a user who may ask; the others go on."""


def refuse(receiving: socket.socket) -> None:
    """Have the kernel refuse descriptors that are passed to *receiving*, a Unix socket, where it can (Linux 6.16)."""
    with contextlib.suppress(OSError):
        receiving.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def refuses(receiving: socket.socket) -> bool:
    """Whether the kernel does so. One that waited to be accepted when `refuse` came may hold some already."""
    try:
        return receiving.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


class Closing:
    """Closes descriptors in threads of its own."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._waiting: deque[int] = deque()
        self._idle = self._threads = 0

    def close(self, descriptor: int) -> None:
        """Have *descriptor* closed soon. It is the caller's no more."""
        with self._lock:
            self._waiting.append(descriptor)
            if not self._idle and self._threads < _THREADS:
                try:
                    threading.Thread(target=self._work, daemon=True, name="closing").start()
                except RuntimeError:  # no thread can be had now; one that there is, or the next call, closes it
                    return
                self._threads += 1
            self._lock.notify()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                while not self._waiting:
                    self._lock.wait()
                self._idle -= 1
                some = [self._waiting.popleft() for _ in range(min(len(self._waiting), 64))]
            _close(some)


def _close(descriptors: Sequence[int]) -> None:
    try:
        child = subprocess.Popen(
            ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={},
            pass_fds=descriptors,
        )  # fmt: skip
    except (OSError, ValueError):
        child = None
    for each in descriptors:
        with contextlib.suppress(OSError):  # close(2): it is closed whatever it says
            os.close(each)
    if child is not None:
        child.communicate()


closing = Closing()
"""Of this process."""
