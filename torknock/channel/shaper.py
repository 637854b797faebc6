"""The two ends of a shaped stream, whose first exchanges look like those of a real site's pages (protocol.md §3.5).

The client sends the requests of its plan, each when its time has come after the answer before, and says how long the
answer is to be. The bridge answers with as many octets, after the pauses of the same site. Either puts what its upper
protocol has written into them, and padding into the rest.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IProtocol, IReactorTime

from torknock.channel.framed import FramedStream
from torknock.protocol.exchanges import Exchange
from torknock.protocol.frames import HEAD, BadFrame, FrameReader, Received, frame_sizes, write_frame
from torknock.protocol.plan import Plan, Rhythm

PENDING_AT_MOST = 64
"""Answers that a client may have asked for and not got. An honest one asks for those of one request."""

ASKED_AT_MOST = 1 << 20
"""Octets of all answers that a client may ask for."""


class ClientShaper(FramedStream):
    """The client's end: sends the requests of *plan*, each when its time has come after the answer before.

    *opening* is what must come before the first frame. It is part of the first request. *awaited* octets of an answer
    come before that.
    """

    def __init__(
        self, clock: IReactorTime, upper: IProtocol, plan: Plan, opening: bytes = b"", awaited: int = 0
    ) -> None:
        super().__init__(clock, upper, FrameReader(asks=False))
        self._plan = plan
        self._opening = opening
        self._awaited = awaited
        """Octets of answers that are still to come."""

    def begin(self) -> None:
        """Wait for the first request's time."""
        if not self._awaited:
            self._next()

    def _next(self) -> None:
        """Wait for the next request's time; without one the plan is over."""
        if self._plan.exchanges:
            self.timer.set(self._plan.exchanges[0].think, self._ask)
        else:
            self.set_free()

    def _ask(self) -> None:
        exchange = self._plan.exchanges.popleft()
        self._awaited = sum(exchange.answers)
        self.transport.write(self._request(exchange))
        self.queue.settle()

    def _request(self, exchange: Exchange) -> bytes:
        """The opening, a frame for each piece of the answer but one, and a frame with the data: one TLS record."""
        opening, self._opening = self._opening, b""
        *pieces, last = exchange.answers
        heads = b"".join(write_frame(b"", HEAD, piece) for piece in pieces)
        size = max(exchange.request - len(opening) - len(heads), HEAD)
        data = self.queue.take(size - HEAD)
        return opening + heads + write_frame(data, size, last, free=not self._plan.exchanges)

    def heard(self, received: Received, size: int) -> None:
        """Octets of an answer have come; the last of them lets the next request's time begin."""
        if self._awaited and not self.free:
            self._awaited = max(0, self._awaited - size)
            if not self._awaited:
                self._next()

    def set_free(self) -> None:
        """See `FramedStream.set_free`. What must come first still does."""
        opening, self._opening = self._opening, b""
        if opening:
            self.transport.write(opening)
        super().set_free()

    def free_frame(self, data: int) -> int:
        """See `FramedStream.free_frame`."""
        return self._plan.free_frame(data)


class BridgeShaper(FramedStream):
    """The bridge's end: answers with as many octets as are asked for, after the pauses of *rhythm*.

    *first* octets were asked for before, and leave at once.
    """

    def __init__(self, clock: IReactorTime, upper: IProtocol, rhythm: Rhythm, first: int = 0) -> None:
        super().__init__(clock, upper, FrameReader(asks=True))
        self._rhythm = rhythm
        self._owed: deque[tuple[int, ...]] = deque([(first,)] if first else [])
        """The pieces of each answer that is asked for."""
        self._asked = 0
        self._past_plan = False

    def begin(self) -> None:
        """Answer what was asked for before."""
        if self._owed:
            self._answer()

    def heard(self, received: Received, size: int) -> None:
        """Answers may be asked for, each in its turn. Raises `BadFrame` if they are too many."""
        if received.asked:
            self._asked += sum(received.asked)
            pending = len(received.asked) + sum(map(len, self._owed))
            if self._past_plan or pending > PENDING_AT_MOST or self._asked > ASKED_AT_MOST:
                raise BadFrame("more answers are asked for than a plan has")
            self._owed.append(received.asked)
        self._past_plan = self._past_plan or received.free
        self._go_on()

    def _go_on(self) -> None:
        """Wait for the next answer's time; without one, past the plan, frames are free."""
        if self.free or self.timer.runs or self.queue.full or self.write_ended:
            return
        if self._owed:
            self.timer.set(self._rhythm.wait(), self._answer)
        elif self._past_plan:
            self.set_free()

    def _answer(self) -> None:
        for piece in self._owed.popleft():
            sizes = frame_sizes(piece)
            self.transport.write(b"".join(write_frame(self.queue.take(size - HEAD), size) for size in sizes))
        self.queue.settle()
        self._go_on()

    def drained(self) -> None:
        """Answer on."""
        self._go_on()

    def free_frame(self, data: int) -> int:
        """See `FramedStream.free_frame`."""
        return self._rhythm.free_frame(data)
