"""The life of a connection: from the SYN that the gate let through to the relay between the client and tor.

The order is a promise. A SYN is spent, on the disk, before its client receives an octet; nothing is read before that.
tor hears of a client only once it has proved which line it holds. A failure at any step ends the connection there, and
it costs the client its token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pluggable.arrivals import Arrival, ORPortFactory
from torknock.bridge.accept import AcceptedConnection, Listener
from torknock.bridge.counts import Counts
from torknock.bridge.upstream import Upstream
from torknock.channel.integrity import Integrity
from torknock.channel.interfaces import IServerChannel, NotProved, NotServed
from torknock.channel.raw import Raw
from torknock.channel.tls_server import ServerTLS
from torknock.kernel.descriptor_limit import Places
from torknock.keyring.issued import Issued
from torknock.protocol.bridge_line import Channel
from torknock.protocol.syn import SYN

_log = Logger()
_RAW = Raw()

_PLACES_OF_SITE = 2
"""Places that a connection takes beside the usual one if it goes to the site: two sockets, and pipes."""


class Book(Protocol):
    """What knows which SYNs open a connection."""

    async def lines_for(self, syn: SYN) -> tuple[Issued, ...]:
        """The lines that *syn* opens a connection for, which is spent on the disk by then; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a connection meets, in this order."""

    clock: IReactorTime
    places: Places
    book: Book
    counts: Counts
    tls: ServerTLS
    tor: ORPortFactory
    upstream: Upstream
    site: IServerChannel | None = None
    """Channel `web`, if the operator has a site."""
    revoked: Callable[[Issued], bool] = lambda issued: False
    """Whether a line was revoked, as far as that is known now."""


async def accept_all(listener: Listener, parts: Parts) -> None:
    """Serve each connection of *listener*, until that is closed."""
    while (connection := await listener.accept()) is not None:
        Deferred.fromCoroutine(_served(connection, parts))


async def _served(connection: AcceptedConnection, parts: Parts) -> None:
    try:
        await serve(connection, parts)
    except Exception:  # noqa: BLE001  a fault in the service of one connection must not outlive it
        _log.failure("connection reset: serving it failed")
        connection.abort()


async def serve(connection: AcceptedConnection, parts: Parts) -> None:
    """Serve *connection* from its SYN to its end."""
    # A place for its descriptors. A SYN that finds none has opened a connection all the same, and is spent below.
    has_place = parts.places.take()
    if has_place:
        connection.closed.addCallback(lambda _: parts.places.give_back())
    else:
        connection.drop()

    # Its SYN: which lines it was made for, spent on the disk. None if it was spent before, or was revoked.
    issued = await parts.book.lines_for(connection.syn)
    if issued:
        parts.counts.count("let_in")
    if not issued or not has_place or connection.closed.called:
        connection.abort()
        return
    channel, holders = _channel(issued, parts)
    if channel is None or not _has_room(connection, channel, parts):
        connection.abort()
        return

    # Its first octets, if the SYN announced them. Other ones, or none in time: it has been reset.
    first = await _announced(connection, holders, parts)
    if first is None:
        return

    # Its channel, and the proof of one line. Without a proof the channel stays silent, and ends it later.
    arrival = parts.tor.arrival()
    lines = [each.line for each in holders]
    lower, proved = channel.accept(lines, connection.syn.isn, arrival.link, [each.addresses for each in holders])
    connection.carry(lower, first)
    holder = await _proved(proved, holders, parts.counts)
    if holder is None:
        return
    if parts.revoked(holder):  # since its SYN; the line's other connections have been cut, if they were to be
        arrival.link.abort()
        return
    ended = parts.counts.opened(holder.name, arrival.link.abort)
    connection.closed.addCallback(lambda _: ended())
    await _relayed(connection, arrival, parts.upstream)


async def _announced(connection: AcceptedConnection, holders: Sequence[Issued], parts: Parts) -> bytes | None:
    """The first octets that the SYN announced, empty if it announced none; None if others came."""
    covered = holders[0].line.integrity
    if not covered:
        return b""
    integrity = Integrity(parts.clock, [each.line.secret for each in holders], covered, connection.syn.isn)
    connection.carry(integrity)
    return await integrity.announced


async def _proved(proved: Deferred[int], holders: Sequence[Issued], counts: Counts) -> Issued | None:
    """The one of *holders* that the client has *proved* to hold; None if none. No proof is counted and logged."""
    try:
        return holders[await proved]
    except NotServed:  # the channel counts it, and says so
        return None
    except NotProved as error:
        counts.count("given_nothing")
        _log.warn(
            "connection with a valid token but no valid proof ({why}); the client may have been intercepted",
            why=str(error.why),
        )
        return None


async def _relayed(connection: AcceptedConnection, arrival: Arrival, upstream: Upstream) -> None:
    """Return at the end of the relay with tor's Extended ORPort. While tor takes no clients *upstream* is told."""
    try:
        tor = await arrival.introduce(connection.address)
    except CancelledError:
        return  # the client left first
    if tor is None:
        upstream.turned_away()
        return
    await connection.closed
    if tor.hung_up:
        upstream.turned_away()


def _channel(issued: Sequence[Issued], parts: Parts) -> tuple[IServerChannel | None, list[Issued]]:
    """The channel for a SYN that opens for each of *issued*, and those of them that it serves.

    The site goes first, then a channel that proves the line; all of them have the same integrity code. None if the
    site is needed and there is none.
    """
    channels = {Channel.WEB: parts.site, Channel.TLS: parts.tls, Channel.RAW: _RAW}
    chosen = next(each for each in channels if any(issue.line.channel is each for issue in issued))
    served = [each for each in issued if each.line.channel is chosen]
    return channels[chosen], [each for each in served if each.line.integrity == served[0].line.integrity]


def _has_room(connection: AcceptedConnection, channel: IServerChannel, parts: Parts) -> bool:
    """Whether there are descriptors for what *channel* needs beside the connection and tor's."""
    for _ in range(_PLACES_OF_SITE if channel is parts.site else 0):
        if not parts.places.take():
            return False
        connection.closed.addCallback(lambda _: parts.places.give_back())
    return True
