"""A socket whose SYN has left, and the reactor that waits for its answer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.kernel.interfaces import IReadingReactor


@implementer(IReadWriteDescriptor)
class Waiting:
    """A socket that waits for the answer to its SYN.

    It also waits for input: a reactor tells a reader of a refusal, where a mere writer is told that it is lost.
    """

    def __init__(
        self,
        reactor: IReadingReactor,
        knocking: socket.socket,
        connected: Callable[[socket.socket], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._reactor = reactor
        self._socket = knocking
        self._connected = connected
        self._failed = failed
        self._over = False
        reactor.addReader(self)
        reactor.addWriter(self)

    def fileno(self) -> int:
        """The reactor waits for it."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "knock"

    def doRead(self) -> None:
        """The SYN was refused, or answered."""
        self._answered(0)

    def doWrite(self) -> None:
        """The SYN was answered, or refused."""
        self._answered(0)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives the socket up."""
        self._answered(errno.ECONNABORTED)

    def close(self) -> None:
        """Give the wait up."""
        self._leave()
        self._socket.close()

    def _answered(self, otherwise: int) -> None:
        if self._over:  # one turn of the reactor may call for both input and output
            return
        self._leave()
        status = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or otherwise
        if status == 0:
            self._connected(self._socket)
        else:
            self._socket.close()
            self._failed(getConnectError((status, os.strerror(status))))

    def _leave(self) -> None:
        self._over = True
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
