"""What Python logs, as `LOG` lines in tor's own log: on one line, without addresses, never too many."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import PurePath
from traceback import extract_tb
from typing import TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from pluggable.report import Report, Severity
from pluggable.scrubbing import scrubbed

_log = Logger()

_BURST = 20
_PER_SECOND = 1.0


class _RateLimit:
    """Some lines at once, then one a second: arti drops what is over 64."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._left, self._at = float(_BURST), seconds()
        self.suppressed = 0

    def allows(self) -> bool:
        """Whether one more line may be written now."""
        now = self._seconds()
        self._left, self._at = min(_BURST, self._left + (now - self._at) * _PER_SECOND), now
        if self._left < 1:
            self.suppressed += 1
            return False
        self._left -= 1
        return True


@implementer(ILogObserver)
class LogLines:
    """Writes twisted.logger's events to tor, but those of level debug.

    Each severity has a rate limit of its own, so that a flood of warnings hides no error. *seconds* is a clock's.
    """

    def __init__(self, report: Report, seconds: Callable[[], float]) -> None:
        self._report = report
        self._seconds = seconds
        self._rate_limits: dict[Severity, _RateLimit] = {}

    def __call__(self, event: LogEvent) -> None:
        """Write *event*, unless its level is debug or its severity is over the limit."""
        severity = _severity(event)
        if severity == "debug":
            return
        rate_limit = self._rate_limits.setdefault(severity, _RateLimit(self._seconds))
        if not rate_limit.allows():
            return
        message = formatEvent(event)
        if isinstance(failure := event.get("log_failure"), Failure):
            message += f": {_in_one_line(failure)}"
        if rate_limit.suppressed:
            message += f" ({rate_limit.suppressed} more suppressed before this)"
            rate_limit.suppressed = 0
        self._report.log(severity, scrubbed(message.strip()))


@contextlib.contextmanager
def logging_to(report: Report, seconds: Callable[[], float]) -> Iterator[None]:
    """Within this, log events and Python's warnings become `LOG` lines."""
    observer, show = LogLines(report, seconds), warnings.showwarning
    globalLogPublisher.addObserver(observer)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        globalLogPublisher.removeObserver(observer)


def _severity(event: LogEvent) -> Severity:
    level = event.get("log_level", LogLevel.info)
    if level >= LogLevel.error:
        return "error"
    if level == LogLevel.warn:
        return "warning"
    if level == LogLevel.debug:
        return "debug"
    # Twisted logs every port and factory; what a transport logs is for tor's operator.
    return "info" if str(event.get("log_namespace", "")).startswith(("twisted.", "log_legacy")) else "notice"


def _in_one_line(failure: Failure) -> str:
    frames = extract_tb(failure.getTracebackObject())
    path = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(failure.value).__name__}: {failure.value}" + (f" [{path}]" if path else "")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    where = f"{PurePath(filename).name}:{lineno}"
    _log.warn("{kind}: {text} [{where}]", kind=category.__name__, text=str(message), where=where)
