"""Twins, in memory, of what the kernel gives: with them a fault is tested without root.

That packets really take the way that is told is shown in network namespaces (`tests/kernel`).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence

_ERROR = 2  # NLMSG_ERROR, linux/netlink.h


class MemoryNetlink:
    """A netlink socket: *answer* tells, for each message that is sent, what is then received, or raises `OSError`.

    `recv` raises `BlockingIOError` when nothing is left, as a socket that does not block.
    """

    def __init__(self, answer: Callable[[bytes], Sequence[bytes]]) -> None:
        self._answer = answer
        self.sent: list[bytes] = []
        """The messages that were sent."""
        self.waiting: list[bytes | OSError] = []
        """What `recv` gives, or raises, from now on."""
        self.option_refused: OSError | None = None
        """What `setsockopt` raises."""
        self.closed = False

    def send(self, octets: bytes, /) -> int:
        """See `INetlink.send`."""
        self.sent.append(octets)
        self.waiting += self._answer(octets)
        return len(octets)

    def recv(self, size: int, /) -> bytes:
        """See `INetlink.recv`."""
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nothing to receive")
        octets = self.waiting.pop(0)
        if isinstance(octets, OSError):
            raise octets
        return octets[:size]

    def settimeout(self, seconds: float | None, /) -> None:
        """Nothing here waits."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """See `INetlink.setsockopt`."""
        if self.option_refused is not None:
            raise self.option_refused

    def fileno(self) -> int:
        """No descriptor of the kernel's: 0 while it is open."""
        return -1 if self.closed else 0

    def close(self) -> None:
        """See `INetlink.close`."""
        self.closed = True


def acknowledged(code: int = 0) -> bytes:
    """The kernel's answer to a message that was done, or refused with the error number *code*."""
    return struct.pack("=IHHII", 20, _ERROR, 0, 0, 0) + struct.pack("=i", -code)
