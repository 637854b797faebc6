"""One way to run a coroutine from a verb: in Twisted's reactor, which can be started once in a process."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

from torknock.kernel.interfaces import IReactor

T = TypeVar("T")


def installed() -> IReactor:
    """The reactor of this process, with a clock that never stands still."""
    from twisted.internet import reactor  # not when a command is only loaded

    steady: Any = reactor
    steady.seconds = time.monotonic  # Twisted's own clock stands still when wall time is turned back
    return cast(IReactor, reactor)


def in_reactor(reactor: IReactor, coroutine: Coroutine[Any, Any, T]) -> T | None:
    """What *coroutine* returns or raises; the *reactor* is started for it. None if Ctrl-C or `reactor.stop` ended it.

    It is cancelled then.
    """
    outcome: list[T | Failure] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(coroutine)
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        running.addBoth(outcome.append)
        running.addBoth(end)

    def end(_done: object) -> None:
        with suppress(ReactorNotRunning):  # Ctrl-C has stopped it
            reactor.stop()

    reactor.callWhenRunning(begin)
    reactor.run()
    for result in outcome:
        if not isinstance(result, Failure):
            return result
        if not result.check(CancelledError):
            result.raiseException()
    return None
