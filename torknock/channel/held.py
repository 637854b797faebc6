"""Writes that wait for a slot, and the one call that is to come: what a shaped stream keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

HELD_AT_MOST = 64 * 1024
"""Octets that may wait for a slot before the producer that writes them is paused."""


class Timer:
    """At most one call that is to come."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None

    @property
    def runs(self) -> bool:
        """Whether there is one."""
        return self._call is not None and self._call.active()

    def set(self, seconds: float, then: Callable[[], None]) -> None:
        """Call *then* in so many *seconds*."""
        self._call = self._clock.callLater(seconds, then)

    def stop(self) -> None:
        """Call nothing."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None


class HeldWrites:
    """What the upper protocol has written and no frame has taken; pauses the producer that writes too much."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._producer: Any = None
        self._paused = False
        self.full = False
        """Whether the channel's buffer is."""

    def __len__(self) -> int:
        return len(self._octets)

    def put(self, octets: bytes) -> None:
        """Keep *octets*."""
        self._octets += octets

    def take(self, most: int) -> bytes:
        """The first octets that wait, at *most* so many."""
        taken = bytes(self._octets[:most])
        del self._octets[:most]
        return taken

    def follow(self, producer: Any) -> None:
        """Pause and resume *producer*, or none."""
        self._producer, self._paused = producer, False
        self.settle()

    def end(self) -> None:
        """The connection is over: stop the producer, and keep nothing."""
        producer, self._producer = self._producer, None
        self._octets.clear()
        if producer is not None:
            producer.stopProducing()

    def settle(self) -> None:
        """Pause or resume the producer, as there is room."""
        paused = self.full or len(self._octets) > HELD_AT_MOST
        if self._producer is not None and paused != self._paused:
            self._paused = paused
            if paused:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()
