"""A question to the gate, whose answer serves all who ask for some time.

Rules: the gate is asked one question at a time, and not again while the answer is fresh. All who wait while a question
is under way wait for its answer, but no longer than `_TIMEOUT`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger()

_TIMEOUT = 2.0
"""Seconds that the gate has for its answer; the last one serves then."""


class Question:
    """Asks by *ask*, which returns once the answer has been dealt with; an answer is fresh for so many seconds."""

    def __init__(
        self, clock: IReactorTime, ask: Callable[[], Coroutine[Deferred[Any], Any, None]], fresh: float
    ) -> None:
        self._clock, self._ask, self._fresh = clock, ask, fresh
        self._asked_at = -fresh
        self._asking: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    def answered(self) -> Deferred[None]:
        """Fires once the last answer is fresh, or after `_TIMEOUT`."""
        if self._asking is None and self._clock.seconds() - self._asked_at >= self._fresh:
            self._asked_at = self._clock.seconds()
            self._asking = Deferred.fromCoroutine(self._ask())
            self._asking.addBoth(self._end)
        if self._asking is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting.addTimeout(_TIMEOUT, self._clock, lambda _result, _seconds: None)

    def _end(self, result: object) -> None:
        self._asking = None
        if isinstance(result, Failure):
            _log.failure("a question to the gate has failed", failure=result)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)
