"""Frames of a shaped stream: data, padding, and the size of the answer that is asked for (protocol.md §3.5). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from torknock.errors import TorknockError

_HEAD = struct.Struct("!HHI")
HEAD = _HEAD.size
"""Octets of a frame's head: data and padding that follow it, and what is asked for."""

FRAME_AT_MOST = 16_384
"""Octets of a frame, head included: what one TLS record holds (RFC 8446 §5.1)."""

ANSWER_AT_MOST = 65_536
"""Octets of one answer. The bridge makes the whole of it at once, so this is memory that a client can make it take."""

PAST_PLAN = 1 << 31
"""Set in the third field of the client's last planned frame: from here on frames are free."""


class BadFrame(TorknockError):
    """A peer's frame that is not as protocol.md §3.5 has it."""


@dataclass(frozen=True, slots=True)
class Received:
    """What came in frames."""

    data: bytes = b""
    asked: tuple[int, ...] = ()
    """Octets of each answer that is asked for, in order."""
    free: bool = False
    """Whether the plan ended in one of these frames."""


def write_frame(data: bytes | memoryview, size: int, asked: int = 0, free: bool = False) -> bytes:
    """A frame of *size* octets with *data* in it; *asked* octets are to come back, and *free* ends the plan.

    Raises `ValueError` for what `FrameReader` would refuse.
    """
    padding = size - HEAD - len(data)
    if padding < 0 or size > FRAME_AT_MOST:
        raise ValueError(f"a frame of {size} octets with {len(data)} of data")
    if asked and not HEAD <= asked <= ANSWER_AT_MOST:
        raise ValueError(f"an answer of {asked} octets")
    return b"".join((_HEAD.pack(len(data), padding, asked | PAST_PLAN * free), data, bytes(padding)))


def frame_sizes(total: int) -> Iterator[int]:
    """The sizes of the frames that make *total* octets, at least `HEAD`: as large as they may be, then the rest."""
    while total > FRAME_AT_MOST:
        size = FRAME_AT_MOST if total - FRAME_AT_MOST >= HEAD else total - HEAD
        yield size
        total -= size
    yield total


class FrameReader:
    """Reads frames out of octets that come in pieces of any size. It keeps at most seven octets.

    *asks* is whether this peer may ask for answers: a client may, a bridge may not.
    """

    def __init__(self, asks: bool) -> None:
        self._asks = asks
        self._past_plan = False
        self._head = b""
        self._data = self._padding = 0

    def feed(self, octets: bytes) -> Received:
        """What *octets* complete; data is handed on before its frame is whole. Raises `BadFrame`."""
        pieces: list[memoryview] = []
        asked: list[int] = []
        free = False
        rest = memoryview(octets)
        while len(rest):
            if self._data:
                piece, rest = rest[: self._data], rest[self._data :]
                self._data -= len(piece)
                pieces.append(piece)
            elif self._padding:
                skipped = min(self._padding, len(rest))
                self._padding -= skipped
                rest = rest[skipped:]
            else:
                missing = HEAD - len(self._head)
                self._head += rest[:missing]
                rest = rest[missing:]
                if len(self._head) == HEAD:
                    answer, ends = self._begin()
                    free = free or ends
                    asked += [answer] if answer else []
        return Received(b"".join(pieces), tuple(asked), free)

    def _begin(self) -> tuple[int, bool]:
        """A head is complete: the answer that it asks for, and whether the plan ends."""
        self._data, self._padding, field = _HEAD.unpack(self._head)
        self._head = b""
        size = HEAD + self._data + self._padding
        if size > FRAME_AT_MOST:
            raise BadFrame(f"a frame has {size} octets, at most {FRAME_AT_MOST} are allowed")
        if field and not self._asks:
            raise BadFrame("the bridge asks for an answer")
        answer, free = field & ~PAST_PLAN, bool(field & PAST_PLAN)
        if answer and not HEAD <= answer <= ANSWER_AT_MOST:
            raise BadFrame(f"an answer of {answer} octets is asked for, {HEAD} to {ANSWER_AT_MOST} are allowed")
        if answer and self._past_plan:
            raise BadFrame("an answer is asked for after the plan")
        self._past_plan = self._past_plan or free
        return answer, free
