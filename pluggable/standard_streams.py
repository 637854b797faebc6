"""stdout, which is tor's alone, and stdin, whose end is tor's end (pt-spec §3.1, §3.3, §3.4)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

_PARENT_CHECK = 2.0
"""Seconds between two looks at which process is our parent."""


@contextlib.contextmanager
def stdout_for_tor(stdout: int) -> Iterator[Callable[[bytes], None]]:
    """A function that writes to tor and that no other code has; meanwhile the descriptor *stdout* leads to stderr."""
    private = os.dup(stdout)
    try:
        os.dup2(2, stdout, inheritable=True)
    except OSError:  # there is no stderr
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stdout, inheritable=True)
        os.close(null)

    def write(line: bytes) -> None:
        with contextlib.suppress(OSError):  # tor has gone; the end of stdin shows it
            while line:
                line = line[os.write(private, line) :]

    try:
        yield write
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()  # what others have printed must not reach tor late either
        os.dup2(private, stdout, inheritable=True)
        os.close(private)


@contextlib.contextmanager
def ended_by_tor(reactor: Any, terminate: Callable[[], None], exits_on_close: bool, stdin: int) -> Iterator[None]:
    """Within this, call *terminate* when tor has gone: at the end of *stdin* if *exits_on_close*, as tor asks for.

    Else when the parent process has ended, since tor may die without a signal.
    """
    if exits_on_close:
        reader = _EndOfFile(stdin, terminate)
        reader.watch(reactor)
        try:
            yield
        finally:
            reactor.removeReader(reader)
        return
    parent = os.getppid()
    checking = LoopingCall(lambda: None if os.getppid() == parent else terminate())
    checking.clock = reactor
    checking.start(_PARENT_CHECK)
    try:
        yield
    finally:
        checking.stop()


@implementer(IReadDescriptor)
class _EndOfFile:
    """Reads and drops, up to the end."""

    def __init__(self, descriptor: int, ended: Callable[[], None]) -> None:
        self._descriptor, self._ended = descriptor, ended

    def watch(self, reactor: Any) -> None:
        """Begin; a descriptor that cannot be watched has ended."""
        try:
            os.fstat(self._descriptor)
            reactor.addReader(self)
        except OSError:
            self._ended()

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "stdin"

    def doRead(self) -> Failure | None:
        try:
            if os.read(self._descriptor, 4096):
                return None
        except BlockingIOError:
            return None
        except OSError:
            pass
        return Failure(EOFError())

    def connectionLost(self, reason: Failure) -> None:
        self._ended()
