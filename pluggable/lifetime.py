"""How long a transport process runs, and in which order it ends (pt-spec §3.4).

The law:

- `run` starts first. `drain` and `terminate` may come at any time after that, in any order and any number of times:
  while the transports start, while links are open, while it ends already. They come in the reactor's thread.
- A drain closes the ports, keeps the links and terminates with the last link. A second drain terminates.
- A termination cancels a start that is not over, cuts every link, closes the ports and calls each stop. Ports are
  closed once, whichever came first.
- `run` returns after at most `STOP_LIMIT` seconds of that, whatever a transport does, and fails for no transport.
- After a drain or a termination no transport starts (`is_ending`). A start that fails terminates nothing: were the
  process to exit, tor would start it again every second.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from pluggable.relay import Links

_log = Logger()

STOP_LIMIT = 3.0
"""Seconds that the transports have to stop: arti kills a transport after five."""


class Lifetime:
    """What runs, and how it ends: by `drain`, by `terminate`, or by one after the other."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.links = Links()
        self._ports: list[IListeningPort] = []
        self._stops: list[Callable[[], Deferred[None] | None]] = []
        self._terminated: Deferred[None] = Deferred()
        self._starting: Deferred[None] | None = None
        self._draining = False

    @property
    def is_ending(self) -> bool:
        """Whether nothing may start any more."""
        return self._draining or self._terminated.called

    def add_port(self, port: IListeningPort) -> None:
        """Close *port* at the beginning of a drain, or at the end."""
        self._ports.append(port)

    def add_stop(self, stop: Callable[[], Deferred[None] | None]) -> None:
        """Call *stop* at the end."""
        self._stops.append(stop)

    async def run(self, start: Coroutine[Any, Any, None]) -> None:
        """Run *start*, wait for the end, and clean up."""
        self._starting = Deferred.fromCoroutine(start)
        self._starting.addErrback(_log_failed_start)
        await self._terminated
        self._starting.cancel()
        self.links.abort()
        closing = [self._close(), *(_stop(stop) for stop in self._stops)]
        waiting = gatherResults([Deferred.fromCoroutine(each) for each in closing], consumeErrors=True)
        waiting.addTimeout(STOP_LIMIT, self._reactor)
        waiting.addErrback(lambda failure: _log.failure("a transport did not stop", failure))
        await waiting

    def drain(self) -> None:
        """Accept no more links, and end with the last link. A second time: end now."""
        if self._draining:
            self.terminate()
            return
        self._draining = True
        if self._starting is not None:
            self._starting.cancel()
        closing = Deferred.fromCoroutine(self._close())
        closing.addCallback(lambda _: self.links.all_closed())
        closing.addBoth(lambda _: self.terminate())

    def terminate(self) -> None:
        """End now."""
        if not self._terminated.called:
            self._terminated.callback(None)

    async def _close(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            await _stop(port.stopListening)


def _log_failed_start(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("the start failed", failure)


async def _stop(stop: Callable[[], Any]) -> None:
    try:
        await maybeDeferred(stop)
    except CancelledError:
        raise
    except Exception:  # noqa: BLE001  any transport may be here
        _log.failure("stopping")
