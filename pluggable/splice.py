"""Octets that go from one socket to another within the kernel (splice(2)), while Twisted keeps both transports.

A `Way` takes the place of a transport's `doRead`: what arrives goes into a pipe, and from the pipe to the other
socket, unread. What the other socket does not take stays in the pipe, and nothing more is read until it has left. Each
octet goes on as Twisted's own relay would send it:

- An end, a loss and all that a transport does about them are Twisted's. An end is seen only when the pipe is empty.
- While the other transport has something in its own buffer, or no pipe is to be had, Twisted reads and writes.
- If the kernel does not splice these sockets, Twisted relays them from then on.

A pipe is a direction's while there is something in it, and is everyone's otherwise: idle links have none.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet import main, tcp

_SIZE = 256 * 1024
"""Octets of a pipe, if this user may have so many."""

_KEPT = 8
"""Empty pipes that are kept for the next one who needs one."""

_PIPES_AT_MOST = 32
"""Pipes that this process has at once: peers that do not read must not take the descriptors that others need."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_NOT_HERE = frozenset((errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ENOMEM))
"""What splice(2) says where it cannot be used, as in some sandboxes."""

_pipes: list[_Pipe] = []


class _Pipe:
    """An empty pipe, which does not block."""

    open = 0
    """How many there are."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _Pipe.open += 1
        with suppress(OSError):
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, _SIZE)

    def close(self) -> None:
        _Pipe.open -= 1
        os.close(self.out)
        os.close(self.into)


def spliceable(transport: Any, protocol: object) -> bool:
    """Whether *transport* is a socket of Twisted's without TLS, and *protocol* is all that reads from it."""
    if not isinstance(transport, tcp.Connection) or transport.TLS:
        return False
    return protocol in (transport.protocol, getattr(transport.protocol, "_wrappedProtocol", None))  # an endpoint's


class Way:
    """One direction, from *source* to *sink*, which are `spliceable`; *heard* is called when something has gone."""

    def __init__(self, source: Any, sink: Any, heard: Callable[[], object]) -> None:
        self._source, self._sink, self._heard = source, sink, heard
        self._pipe: _Pipe | None = None
        self._held = 0
        source.doRead = self._read

    def source_lost(self) -> None:
        """Nothing comes any more; what is held leaves before the sink ends."""
        _restore(self._source, "doRead", self._read)
        self._source = None

    def sink_lost(self) -> None:
        """Nothing can leave any more."""
        _restore(self._sink, "doWrite", self._write)
        self._sink = None
        if self._source is not None:
            _restore(self._source, "doRead", self._read)
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _read(self) -> Exception | None:
        """In the place of the source's `doRead`: the same, and what it returns."""
        if self._held:
            self._source.stopReading()
            return None
        pipe = None if _buffers(self._sink) else _pipe()
        if pipe is None:
            return self._as_usual()
        try:
            got = os.splice(self._source.fileno(), pipe.into, _SIZE, flags=_FLAGS)
        except BlockingIOError:
            _give_back(pipe)
            return None
        except OSError as error:
            _give_back(pipe)
            if error.errno not in _NOT_HERE:
                return main.CONNECTION_LOST
            _restore(self._source, "doRead", self._read)
            return self._as_usual()
        if not got:
            _give_back(pipe)
            return main.CONNECTION_DONE
        self._heard()
        self._pipe, self._held = pipe, got
        if not self._pushed():
            self._source.stopReading()
            self._sink.doWrite = self._write
            self._sink.startWriting()
        return None

    def _as_usual(self) -> Exception | None:
        result: Exception | None = type(self._source).doRead(self._source)
        return result

    def _write(self) -> Any:
        """In the place of the sink's `doWrite`, while something is held."""
        try:
            if not self._pushed():
                return None
        except OSError:
            return main.CONNECTION_LOST
        sink, source = self._sink, self._source
        _restore(sink, "doWrite", self._write)
        if source is not None and source.connected and not source.disconnecting:
            source.startReading()
        return sink.doWrite()  # stops writing, or does what was put off

    def _pushed(self) -> bool:
        """Whether the pipe is empty, and given back; as much has left as the sink takes."""
        assert self._pipe is not None  # noqa: S101  something is held
        try:
            while self._held:
                self._held -= os.splice(self._pipe.out, self._sink.fileno(), self._held, flags=_FLAGS)
        except BlockingIOError:
            return False
        except OSError:
            if self._sink.__dict__.get("doWrite") == self._write:
                raise
            return False  # the sink is written to at once, which fails again, and loses its connection
        _give_back(self._pipe)
        self._pipe = None
        return True


def _buffers(transport: Any) -> bool:
    """Whether *transport* has something of its own to write first, or writes nothing any more."""
    return bool(transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting)


def _restore(transport: Any, name: str, ours: Callable[[], Any]) -> None:
    """Let *transport* have its own method *name* again, unless Twisted has put another in its place."""
    if transport.__dict__.get(name) == ours:
        del transport.__dict__[name]


def _pipe() -> _Pipe | None:
    """An empty pipe; None if there are `_PIPES_AT_MOST`, or this process may open no more files."""
    if _pipes:
        return _pipes.pop()
    try:
        return _Pipe() if _Pipe.open < _PIPES_AT_MOST else None
    except OSError:
        return None


def _give_back(pipe: _Pipe) -> None:
    if len(_pipes) < _KEPT:
        _pipes.append(pipe)
    else:
        pipe.close()
