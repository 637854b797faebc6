"""Flow control of one TCP connection with TLS on it: who must wait for whom.

The law: TCP's buffer pauses the upper protocol's producer, and resumes it when it is empty, as Twisted's TCP does. TCP
is read unless the upper protocol has paused, or TLS's own answers pile up in a full buffer (`stalled`). These never
happen:

- Two producers at the TCP transport: one `_Valve` is registered at a time, from the beginning to the end.
- A read connection while `paused` or `stalled`: both have to be over.
- A stall without an end: a full buffer becomes empty, or the connection is lost.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

_ANSWERS_AT_MOST = 4 * 1024
"""Octets that TLS itself may write while TCP's buffer is over its limit. An honest peer's rare new keys stay far below,
so that two ends that are both writing never wait for each other."""


class Flow:
    """Flow control of *transport*, a TCP connection of Twisted's."""

    def __init__(self, transport: Any) -> None:
        self.paused = False
        """Whether the upper protocol wants nothing."""
        self._transport = transport
        self._producing = False
        self._full = False
        self._answered = 0
        self._stalled = False
        transport.registerProducer(_Valve(self), True)

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self.paused = True
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Read on, if nothing else is against it: `paused` was set to False, and perhaps to True again."""
        if not (self.paused or self._stalled):
            self._transport.resumeProducing()

    def answered(self, octets: int) -> None:
        """TLS has written *octets* of its own accord; read no further if the peer leaves too much of it."""
        if self._full:
            self._answered += octets
        if self._answered > _ANSWERS_AT_MOST and not self._stalled:
            self._stalled = True
            self._transport.pauseProducing()

    def filled(self) -> None:
        """TCP's buffer is over its limit."""
        self._full = True

    def drained(self) -> None:
        """TCP's buffer is empty."""
        self._full, self._answered = False, 0
        if self._stalled:
            self._stalled = False
            if not self.paused:
                self._transport.resumeProducing()

    def register(self, producer: Any, streaming: bool) -> None:
        """Let TCP's buffer pause *producer*. Raises `RuntimeError` if there is one."""
        if self._producing:
            raise RuntimeError("a producer is registered already")
        self._producing = True
        self._transport.unregisterProducer()
        self._transport.registerProducer(_Valve(self, producer), streaming)

    def unregister(self, *, over: bool) -> None:
        """No more of `register`'s; *over* says whether the connection is being closed, which no valve may hold."""
        self._producing = False
        self._transport.unregisterProducer()
        if not over:
            self._transport.registerProducer(_Valve(self), True)


@implementer(IPushProducer)
class _Valve:
    """What TCP's buffer pauses and resumes: *flow*, and the upper protocol's *producer* if there is one."""

    def __init__(self, flow: Flow, producer: Any = None) -> None:
        self._flow, self._producer = flow, producer

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._flow.filled()
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._flow.drained()
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        if self._producer is not None:
            self._producer.stopProducing()
