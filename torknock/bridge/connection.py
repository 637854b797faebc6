"""The life of a connection: from the SYN that the gate let through to the relay between the client and tor.

The order is a promise. A SYN is spent, on the disk, before its client receives an octet; nothing is read before that.
tor hears of a client only once it has proved which line it holds. A failure at any step ends the connection there, and
it costs the client its token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pluggable.arrivals import ORPortFactory
from torknock.bridge.accept import AcceptedConnection, Listener
from torknock.bridge.counts import Counts
from torknock.bridge.upstream import Upstream
from torknock.channel.integrity import Integrity
from torknock.channel.interfaces import IServerChannel, NotProved
from torknock.channel.raw import Raw
from torknock.channel.tls import ServerTLS
from torknock.kernel.descriptor_limit import Places
from torknock.keyring.issued import Issued
from torknock.protocol.bridge_line import Channel
from torknock.protocol.syn import SYN

_log = Logger()
_RAW = Raw()


class Book(Protocol):
    """What tells which SYNs open a connection."""

    async def whose(self, syn: SYN) -> tuple[Issued, ...]:
        """The lines that *syn* opens a connection for, which are spent on the disk by then; empty if there is none."""


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
    issued = await parts.book.whose(connection.syn)
    if issued:
        parts.counts.count("let_in")
    if not issued or not has_place or connection.closed.called:
        connection.abort()
        return
    channel, holders = _channel(issued, parts)
    lines = [each.line for each in holders]

    # Its first octets, if the SYN announced them. Other ones, or none in time: it has been reset.
    first = b""
    if covered := lines[0].integrity:
        integrity = Integrity(parts.clock, [line.secret for line in lines], covered, connection.syn.isn)
        connection.carry(integrity)
        received = await integrity.announced
        if received is None:
            return
        first = received

    # Its channel, and the proof of one line. Without a proof the channel stays silent, and ends it later.
    arrival = parts.tor.arrival()
    lower, proved = channel.accept(lines, connection.syn.isn, arrival.link, [each.addresses for each in holders])
    connection.carry(lower, first)
    try:
        holder = holders[await proved]
    except NotProved as error:
        parts.counts.count("given_nothing")
        _log.warn(
            "connection with a valid token but no valid proof ({why}); the client may have been intercepted",
            why=str(error.why),
        )
        return
    ended = parts.counts.opened(holder.name, arrival.link.abort)
    connection.closed.addCallback(lambda _: ended())

    # tor's Extended ORPort, then the relay. If tor takes no clients the port is closed until it does.
    try:
        tor = await arrival.introduce(connection.address)
    except CancelledError:
        return  # the client left first
    if tor is None:
        parts.upstream.turned_away()
        return
    await connection.closed
    if tor.hung_up:
        parts.upstream.turned_away()


def _channel(issued: Sequence[Issued], parts: Parts) -> tuple[IServerChannel, list[Issued]]:
    """The channel for a SYN that opens for each of *issued*, and those of them that it serves.

    One that proves the line goes before one that does not; all of them have the same integrity code.
    """
    proving = [each for each in issued if each.line.channel is Channel.TLS]
    served = proving or issued
    return (
        parts.tls if proving else _RAW,
        [each for each in served if each.line.integrity == served[0].line.integrity],
    )
