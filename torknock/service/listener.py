"""The Unix socket that a service listens on: systemd's, or one of its own."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.errors import TorknockError
from torknock.kernel.interfaces import IReactor
from torknock.service import descriptors

_log = Logger()

_SYSTEMD_FD = 3  # sd_listen_fds(3)
_BACKLOG = 1024
_AT_ONCE = 16
_BREATH = 1.0


class CannotServe(TorknockError):
    """There is no socket to listen on."""


def listener(path: str, environ: Mapping[str, str], pid: int) -> socket.socket:
    """The socket that systemd passed to the process *pid*, whose environment is *environ*, else a new one at *path*.

    A new one is for its owner and its group (0660); what a service that has died left at *path* is replaced. Raises
    `CannotServe`.
    """
    if environ.get("LISTEN_PID") != str(pid):
        try:
            return bound(path, 0o660)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise CannotServe(f"cannot listen on {path}: {reason}", "name another socket with --socket") from error
    if environ.get("LISTEN_FDS") != "1":
        raise CannotServe("systemd passed more or less than one socket", "use the units of contrib/systemd")
    passed = socket.socket(fileno=_SYSTEMD_FD)
    if (passed.family, passed.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise CannotServe("systemd passed something else than a Unix stream socket", "use the units of contrib/systemd")
    passed.set_inheritable(False)
    passed.setblocking(False)
    return passed


def bound(path: str, mode: int) -> socket.socket:
    """A Unix socket that listens at *path*, in place of a dead one's. Raises `OSError`; a live one stays."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~mode)
    try:
        made.setblocking(False)
        if _is_dead(path):
            os.unlink(path)
        made.bind(path)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(umask)
    return made


def _is_dead(path: str) -> bool:
    """Whether *path* is a socket without a listener."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:  # without a listener, busy, or not for us
        return False
    return False


@implementer(IReadDescriptor)
class Accepting:
    """Takes the connections that come to *listening*, which is its to close, and gives each a protocol of *factory*.

    Twisted's own port would let every user write to a socket that systemd made for some (`chmod` to 0666), or fail.
    """

    def __init__(self, reactor: IReactor, listening: socket.socket, factory: Factory) -> None:
        self._reactor, self._listening, self._factory = reactor, listening, factory
        descriptors.refuse(listening)
        reactor.addReader(self)

    def fileno(self) -> int:
        """The reactor waits for it."""
        return self._listening.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "listener"

    def doRead(self) -> None:
        """A peer has connected."""
        for _ in range(_AT_ONCE):
            try:
                accepted, _name = self._listening.accept()
                self._adopt(accepted)
            except BlockingIOError:
                return
            except OSError as error:  # the peer has gone, or there are no descriptors left
                _log.warn("a connection cannot be accepted: {reason}", reason=error.strerror)
                self._reactor.removeReader(self)
                self._reactor.callLater(_BREATH, self._again)
                return

    def _adopt(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        if descriptors.refuses(accepted):
            with accepted:
                self._reactor.adoptStreamConnection(accepted.fileno(), accepted.family, self._factory)
            return
        descriptors.refuse(accepted)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # else reading may drop MSG_OOB's descriptors
        held = accepted.detach()  # so that the reactor's close is not the last one, which could wait
        try:
            server = self._reactor.adoptStreamConnection(held, self._listening.family, self._factory)
        except BaseException:
            descriptors.closing.close(held)
            raise
        lost, read = server.connectionLost, server.doRead

        def connection_lost(reason: Failure) -> None:
            try:
                lost(reason)
            finally:
                descriptors.closing.close(held)

        def do_read() -> Any:
            try:
                size = descriptors.readable(server.socket)
            except BlockingIOError:
                return None
            except OSError:
                return read()  # the peer has gone: nothing more can come
            if size is None:
                return server.abortConnection()
            if size == 0:
                return read()
            return server.protocol.dataReceived(server.socket.recv(size))

        server.connectionLost, server.doRead = connection_lost, do_read

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives the listening socket up."""
        self.stop()

    def stop(self) -> None:
        """Accept nothing more."""
        self._reactor.removeReader(self)
        self._listening.close()

    def _again(self) -> None:
        if self._listening.fileno() >= 0:
            self._reactor.addReader(self)
