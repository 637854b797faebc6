"""Two links joined: what arrives at one leaves at the other, as fast as the slower takes it.

The law of one half: its opening has `opened` once, then `received` any number of times until it is joined, then `lost`
once. A half is joined at most once, and not after it is lost. What has arrived before is handed on first. An end of
reading is passed on as an end of writing; the loss of one half closes the other after what it still has to send. Before
it is joined, an end of reading closes the link. Nothing is delivered after `lost`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pluggable.heap import trim_heap
from pluggable.splice import Way, spliceable

_log = Logger()

READ_SIZE = 120 * 1024
"""Octets that are read from a link at once, and that may wait to be written to one before the other is paused."""

EARLY_LIMIT = 256 * 1024
"""Octets that may arrive at a link before it is joined."""


class Opening(Protocol):
    """What goes on at a link until it is joined."""

    rest: bytes
    """What has arrived that belongs to the other link; read when the links are joined."""

    def opened(self, half: Half) -> None:
        """The link is connected."""

    def received(self, octets: bytes) -> None:
        """*octets* have arrived."""

    def lost(self, reason: Failure) -> None:
        """The link is lost, joined or not."""


class Buffered:
    """The opening of a link without a handshake: keeps what arrives."""

    def __init__(self) -> None:
        self.rest = b""

    def opened(self, half: Half) -> None:
        """Nothing to do."""
        self._half = half

    def received(self, octets: bytes) -> None:
        """Keep *octets*; a peer that sends more than `EARLY_LIMIT` is cut off."""
        self.rest += octets
        if len(self.rest) > EARLY_LIMIT:
            _log.warn("more than {limit} octets before the link was ready: closed", limit=EARLY_LIMIT)
            self.rest = b""
            self._half.abort()

    def lost(self, reason: Failure) -> None:
        """Nothing to do."""


@implementer(IHalfCloseableProtocol)
class Half(protocol.Protocol):
    """One link of a relay: a Protocol for whatever transport carries it."""

    transport: Any

    def __init__(self, opening: Opening | None = None) -> None:
        self.opening: Opening = opening or Buffered()
        self.lost = False
        self._peer: Half | None = None
        self._read_ended = False
        self._write_ended = False
        self._heard = False
        self._ways: tuple[Way, Way] | None = None
        """From here to there and from there to here, if both links are sockets."""
        self._deliver: Callable[[bytes], object] = self.opening.received

    def connectionMade(self) -> None:
        """Ask the transport for speed, where it has a say in it, and begin the opening."""
        for wish in ("setTcpNoDelay", "setTcpKeepAlive"):
            if (grant := getattr(self.transport, wish, None)) is not None:
                grant(True)
        if hasattr(type(self.transport), "bufferSize"):
            self.transport.bufferSize = READ_SIZE
        self.opening.opened(self)

    @property
    def hung_up(self) -> bool:
        """Whether the peer ended the link first, and has sent nothing since it was joined."""
        return not self._heard and (self._read_ended or self.lost)

    def dataReceived(self, data: bytes) -> None:
        """Hand *data* on: to the opening, or to the other link."""
        self._heard = True
        self._deliver(data)

    def readConnectionLost(self) -> None:
        """The peer sends no more: pass that on to the other link, or close a link that is not joined yet."""
        self._read_ended = True
        if self._peer is None:
            self.transport.loseConnection()
        else:
            self._peer._finish()
            self._close_if_silent()

    def writeConnectionLost(self) -> None:
        """The other link's end has reached our peer."""
        self._write_ended = True
        self._close_if_silent()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """Close the other link, once it has sent what it still holds."""
        self.lost = True
        if self._ways is not None:
            away, back = self._ways
            away.source_lost()
            back.sink_lost()
            self._ways = None
        peer, self._peer = self._peer, None
        if peer is not None:
            peer._leave()
        self.opening.lost(reason)
        self.opening, self._deliver = Buffered(), _drop  # what was there knows this half, and would keep it in memory

    def abort(self) -> None:
        """Cut the link at once."""
        self.transport.abortConnection()

    def _join(self, peer: Half) -> None:
        self._peer = peer
        self._heard = bool(self.opening.rest)
        self._deliver = peer.transport.write
        peer.transport.registerProducer(self.transport, True)

    def _splice(self, peer: Half) -> None:
        """Let the kernel relay what arrives at this link and at *peer*."""
        there = Way(self.transport, peer.transport, self._has_heard)
        back = Way(peer.transport, self.transport, peer._has_heard)
        self._ways, peer._ways = (there, back), (back, there)

    def _has_heard(self) -> None:
        self._heard = True

    def _finish(self) -> None:
        """Say no more to our peer; transports that cannot say so are closed."""
        self.transport.unregisterProducer()
        # A wrapper such as TLSMemoryBIOProtocol lends out the method of the transport below it, which is not its own.
        if hasattr(type(self.transport), "loseWriteConnection"):
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def _leave(self) -> None:
        self._peer = None
        if not self.lost:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _close_if_silent(self) -> None:
        if self._read_ended and self._write_ended:
            self.transport.loseConnection()


def _drop(_octets: bytes) -> None:
    """Nothing arrives at a half that is lost."""


class Single(protocol.Factory[Any]):
    """Gives the one connection that is made the protocol *only*, and neither knows the other afterwards."""

    noisy = False

    def __init__(self, only: protocol.Protocol) -> None:
        self._only: protocol.Protocol | None = only

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """*only*, once; a second connection is refused."""
        only, self._only = self._only, None
        return only


def join(one: Half, other: Half) -> None:
    """Let what arrives at *one* leave at *other*, and the other way round; a loss of either closes both.

    What has arrived before is handed on. Neither half may be paused by other code.
    """
    if one.lost or other.lost:
        for half in (one, other):
            if not half.lost:
                half.transport.loseConnection()
        return
    one._join(other)
    other._join(one)
    for half, peer in ((one, other), (other, one)):
        if half.opening.rest:
            peer.transport.write(half.opening.rest)
            half.opening.rest = b""
    if spliceable(one.transport, one) and spliceable(other.transport, other):
        one._splice(other)


TRIM_AFTER = 100
"""Closed links after which the memory that they have freed is returned to the system."""


class Links:
    """The links that keep a draining transport alive."""

    def __init__(self) -> None:
        self._halves: set[Half] = set()
        self._closed = 0
        self._waiting: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._halves)

    def add(self, half: Half) -> None:
        """A link has come."""
        self._halves.add(half)

    def discard(self, half: Half) -> None:
        """A link has gone."""
        self._halves.discard(half)
        self._closed += 1
        if self._closed % TRIM_AFTER == 0:
            trim_heap()
        if not self._halves:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def all_closed(self) -> Deferred[None]:
        """Fires when there is no link; at once, if there is none now."""
        deferred: Deferred[None] = Deferred()
        self._waiting.append(deferred)
        if not self._halves:
            self._waiting.remove(deferred)
            deferred.callback(None)
        return deferred

    def abort(self) -> None:
        """Cut every link at once."""
        for half in list(self._halves):
            half.abort()
