"""A channel's stream in frames (protocol.md §3.5), for a subclass that says when they leave and how long they are.

It stands between a channel and its upper protocol: to the channel it is the upper protocol, to the upper protocol the
transport. What the upper protocol writes waits until the subclass takes it, or until frames are free: past the plan, or
once either direction has ended.

Order of events: `connectionMade`; then data, at most one end of each direction, and one loss, as the channel gives
them. These never happen:

- Data for the upper protocol after it has closed, or after a frame that is refused.
- Writes that wait without a bound: above `HELD_AT_MOST`, and while the channel's buffer is full, the upper protocol's
  producer is paused.
- A timer after the loss.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.channel.held import HeldWrites, Timer
from torknock.channel.layer import Layer
from torknock.protocol.frames import FRAME_AT_MOST, HEAD, BadFrame, FrameReader, Received, write_frame

_log = Logger()


@implementer(ITransport, IConsumer, IPushProducer, IHalfCloseableProtocol)
class FramedStream(Layer):
    """What both ends of a shaped stream have in common."""

    disconnecting = False

    def __init__(self, clock: IReactorTime, upper: IProtocol, reader: FrameReader) -> None:
        self._upper: IProtocol | None = upper
        self._reader = reader
        self.timer = Timer(clock)
        self.queue = HeldWrites()
        self.free = False
        self.write_ended = False

    # What a subclass decides.

    def begin(self) -> None:
        """The connection stands; the upper protocol is connected next."""

    def heard(self, received: Received, size: int) -> None:
        """*size* octets of frames have come. Raises `BadFrame`."""
        raise NotImplementedError

    def free_frame(self, data: int) -> int:
        """The size of a free frame with *data* octets."""
        raise NotImplementedError

    def drained(self) -> None:
        """The channel's buffer has room again."""

    # The channel's upper protocol.

    def connectionMade(self) -> None:
        """The channel stands."""
        self.transport.registerProducer(_Valve(self), True)
        self.begin()
        assert self._upper is not None  # noqa: S101  a connection is made once
        self._upper.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Octets of frames; their data is the upper protocol's."""
        if self.disconnecting:
            return
        try:
            received = self._reader.feed(data)
            self.heard(received, len(data))
        except BadFrame as error:
            _log.warn("shaped connection closed: {why}", why=str(error))
            self.abortConnection()
            return
        if received.data and self._upper is not None:
            self._upper.dataReceived(received.data)

    def readConnectionLost(self) -> None:
        """The peer says no more, so it neither asks nor answers: the plan is over."""
        if self.disconnecting:
            return
        self.set_free()
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.readConnectionLost()
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our end has reached the peer."""
        if IHalfCloseableProtocol.providedBy(self._upper):
            self._upper.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over."""
        self.disconnecting = self.write_ended = True
        self.timer.stop()
        self.queue.end()
        upper, self._upper = self._upper, None
        if upper is not None:
            upper.connectionLost(reason)

    # The upper protocol's transport.

    def write(self, data: bytes) -> None:
        """Send *data*: at once if frames are free, else in the next slots. After the end it is dropped."""
        if data and not self.write_ended:
            self.queue.put(data)
            if self.free:
                self._flush()
            self.queue.settle()

    def loseWriteConnection(self) -> None:
        """Say no more, once what waits has left; it does not wait for its slot."""
        if not self.write_ended:
            self.set_free()
            self.write_ended = True
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def loseConnection(self) -> None:
        """Close both directions, once what waits has left; nothing is received any more, a producer is let go."""
        if not self.disconnecting:
            if not self.write_ended:
                self.set_free()
            self.disconnecting = self.write_ended = True
            self.timer.stop()
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Close the connection at once, with RST."""
        self.disconnecting = self.write_ended = True
        self.timer.stop()
        self.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause *producer* while too much of what it wrote waits."""
        if not streaming:
            raise RuntimeError("a shaped stream takes streaming producers only")
        self.queue.follow(producer)

    def unregisterProducer(self) -> None:
        """No more of `registerProducer`'s."""
        self.queue.follow(None)

    def pauseProducing(self) -> None:
        """Hand nothing on until `resumeProducing`."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Hand on what has come, and read on."""
        self.transport.resumeProducing()

    # Frames.

    def set_free(self) -> None:
        """The plan is over: what waits leaves, and what comes is not held back."""
        self.free = True
        self.timer.stop()
        self._flush()
        self.queue.settle()

    def _flush(self) -> None:
        """Write all that waits, in free frames."""
        frames = []
        while len(self.queue) and not self.write_ended:
            data = self.queue.take(FRAME_AT_MOST - HEAD)
            frames.append(write_frame(data, self.free_frame(len(data))))
        if frames:
            self.transport.write(b"".join(frames))

    def _filled(self, full: bool) -> None:
        """The channel's buffer is over its limit, or empty."""
        self.queue.full = full
        self.queue.settle()
        if not full and not self.disconnecting:
            self.drained()


@implementer(IPushProducer)
class _Valve:
    """What the channel's buffer pauses and resumes."""

    def __init__(self, shaper: FramedStream) -> None:
        self._shaper = shaper

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._shaper._filled(True)

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._shaper._filled(False)

    def stopProducing(self) -> None:
        """See `IProducer`: the loss that follows is told by `connectionLost`."""
