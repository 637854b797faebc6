"""Why a port is closed to everyone, as the operator is told: each reason once, and once that it is over."""

from __future__ import annotations

from twisted.logger import Logger

from torknock.errors import TorknockError
from torknock.protocol.token import EPOCH

_log = Logger()


class ClosedReason:
    """No reason at first."""

    def __init__(self) -> None:
        self._error = self._cannot_close = self._behind = ""

    def __str__(self) -> str:
        """Why the port is closed; empty while it is not."""
        return self._error or self._behind

    @property
    def is_error(self) -> bool:
        """Whether an error closed it."""
        return bool(self._error)

    def closed(self, error: Exception) -> None:
        """*error* has closed it."""
        if str(error) != self._error:
            _log.error("port closed: {reason}. It reopens by itself once this is fixed", reason=str(error))
        self._error = str(error)

    def cannot_close(self, error: Exception) -> None:
        """The gate cannot be closed either."""
        if str(error) != self._cannot_close:
            _log.error("{reason}; the tokens run out within {seconds} s", reason=str(error), seconds=2 * EPOCH)
        self._cannot_close = str(error)

    def opened(self) -> None:
        """No error closes it any more."""
        if self._error:
            _log.warn("port open again: what had closed it is mended")
        self._error = self._cannot_close = ""

    def clock_behind(self, reason: str) -> None:
        """The clock is behind the ledger; an empty *reason*: it is not."""
        if reason and reason != self._behind:
            _log.error("port closed: {reason}", reason=reason)
        elif self._behind and not reason:
            _log.warn("port open again: the clock is no longer behind")
        self._behind = reason


def unexpected(error: Exception) -> TorknockError:
    """What the operator is told of an *error* that torknock does not know."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return TorknockError(f"{type(error).__name__}: {reason}")
