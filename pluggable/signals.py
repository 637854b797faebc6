"""Signals for a reactor that installs no handlers of its own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@contextlib.contextmanager
def handled(reactor: Any, handlers: Mapping[int, Callable[[], object]]) -> Iterator[None]:
    """Call the handler of each signal that arrives, given by its number, in *reactor*'s thread.

    Afterwards a signal that would have ended the process by default is ignored, SIGCHLD excepted: tor and the kernel
    may both send SIGTERM, and the second must not change the exit code.
    """
    with _woken(reactor):
        before = {
            number: signal.signal(number, lambda *_, handler=handler: reactor.callFromThread(handler))
            for number, handler in handlers.items()
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                ends = number != signal.SIGCHLD and handler in (signal.SIG_DFL, signal.default_int_handler)
                signal.signal(number, signal.SIG_IGN if ends else handler)


@contextlib.contextmanager
def _woken(reactor: Any) -> Iterator[None]:
    """Wake *reactor* at each signal.

    Python only notes a signal and runs its handler later, in the main thread. A signal that another thread receives, or
    that arrives just before epoll_wait(2) begins, does not interrupt that call: an idle reactor would not see it.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    pipe = _Pipe(reading)
    reactor.addReader(pipe)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        reactor.removeReader(pipe)
        os.close(reading)
        os.close(writing)


@implementer(IReadDescriptor)
class _Pipe:
    """Drops what it reads: an octet for each signal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "signals"

    def doRead(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 4096)

    def connectionLost(self, reason: Failure) -> None:
        """Nothing to do: both ends are closed here."""
