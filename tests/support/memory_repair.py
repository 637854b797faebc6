"""TCP sockets whose repair mode is in memory: the ISN that a SYN would have is noted, and the kernel chooses another.

All else is real. So that nothing leaves the host, `HERE` stands for 127.0.0.1 where a socket is bound to it, and
`THERE` where one is connected.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

from torknock.kernel.socket_options import TCP_QUEUE_SEQ, TCP_REPAIR, TCP_REPAIR_ON, TCP_REPAIR_QUEUE
from torknock.privileged.dial.repair import RepairDialer

HERE, THERE = "198.51.100.1", "192.0.2.7"
_LOOPBACK = "127.0.0.1"


class MemoryRepair:
    """What the kernel would do for a process with CAP_NET_ADMIN."""

    def __init__(self) -> None:
        self.left: list[tuple[str, int, int]] = []
        """The SYNs that left: address, port, ISN."""
        self.refuses: dict[int, int] = {}
        """Option -> the errno with which it is refused; -1 stands for the socket itself."""
        self.answers: int | None = None
        """What `connect` of a SYN that leaves returns, in place of what it is."""
        self.walk: list[int] | None = None
        """The ports that `connect` chooses in repair mode, one after the other; None for those of this kernel."""
        self.open: list[_Socket] = []

    def open_socket(self, family: socket.AddressFamily) -> socket.socket:
        """See `RepairDialer.open_socket`."""
        self.refuse(-1)
        made = _Socket(self, family)
        self.open.append(made)
        return made

    def still_open(self) -> int:
        """How many of the sockets are not closed."""
        return sum(each.fileno() >= 0 for each in self.open)

    def refuse(self, option: int) -> None:
        """Raise what the kernel is told to raise."""
        if code := self.refuses.get(option):
            raise OSError(code, os.strerror(code))

    def dialer(self) -> type[RepairDialer]:
        """A `RepairDialer` whose sockets are of this kernel."""
        made: type[RepairDialer] = type("Dialer", (RepairDialer,), {"open_socket": lambda _, f: self.open_socket(f)})
        return made


class _Socket(socket.socket):
    """A TCP socket of *kernel*'s."""

    def __init__(self, kernel: MemoryRepair, family: socket.AddressFamily) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._kernel = kernel
        self._repair, self._isn, self._abroad = False, 0, False

    def setsockopt(self, level: int, option: int, value: Any, *size: int) -> None:
        if level == socket.IPPROTO_TCP:
            self._kernel.refuse(option)
        if (level, option) == (socket.IPPROTO_TCP, TCP_REPAIR):
            self._repair = value == TCP_REPAIR_ON
            super().setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # its port is shared, as in repair mode
        elif level == socket.IPPROTO_TCP and option in (TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ):
            if not self._repair:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            if option == TCP_QUEUE_SEQ:
                [self._isn] = struct.unpack("=I", value)
        else:
            super().setsockopt(level, option, value, *size)

    def bind(self, name: Any) -> None:
        self._abroad = name[0] == HERE
        super().bind((_LOOPBACK, *name[1:]) if self._abroad else name)

    def getsockname(self) -> Any:
        name = super().getsockname()
        return (HERE, *name[1:]) if self._abroad else name

    def connect(self, target: Any) -> None:
        """In repair mode: take the address and the port that a `connect` would take."""
        assert self._repair, "a dialer connects by `connect_ex`"
        if self._kernel.walk is None:
            port = 0
        elif self._kernel.walk:
            port = self._kernel.walk.pop(0)
        else:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        host = {THERE: HERE, "::1": "::1"}.get(target[0], _LOOPBACK)
        if self.family == socket.AF_INET:
            super().setsockopt(socket.SOL_IP, 24, 0)  # IP_BIND_ADDRESS_NO_PORT: now it is chosen
        self.bind((host, port))

    def connect_ex(self, target: Any) -> int:
        if self._isn:
            self._kernel.left.append((target[0], target[1], self._isn))
            if self._kernel.answers is not None:
                return self._kernel.answers
        return super().connect_ex((_LOOPBACK, *target[1:]) if target[0] == THERE else target)
