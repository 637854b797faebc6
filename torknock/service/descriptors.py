"""Descriptors that peers pass to a service, which wants none: refused, or closed where a wait does no harm.

close(2) can wait for as long as a peer has chosen, for example for a TCP socket with SO_LINGER and unsent data, or for
a file system that a user serves. So on kernels that cannot refuse descriptors none is received: what a peer has sent is
looked at first, and a connection that brings some is ended. What is in a Unix socket when it is closed is closed with
it. So the reactor's close is not the last one. A child that has the socket open too exits after this process has closed
its own: the kernel does not linger in a process that exits, and a file that was never received is not flushed. A thread
waits for that.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess  # noqa: TID251  in a thread
import threading
from collections import deque
from collections.abc import Sequence

from torknock.kernel.socket_options import SO_PASSRIGHTS

_THREADS = 4
"""Each waits for one child at a time: so many children at most."""

READ_AT_MOST = 65_536
"""Octets that are looked at, and then read, at once."""


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


def readable(receiving: socket.socket, at_most: int = READ_AT_MOST) -> int | None:
    """How many octets can be read from *receiving* without receiving descriptors; None if some come with the next ones.

    0 when the peer has ended the connection. Raises `OSError`, as `recv` does.
    """
    seen, _, flags, _ = receiving.recvmsg(at_most, 0, socket.MSG_PEEK)  # what is only looked at stays where it is
    return None if flags & socket.MSG_CTRUNC else len(seen)


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
