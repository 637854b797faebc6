"""`torknock check line`, from outside: whether a line opens its bridge, tor answers, and the bridge is hidden."""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.task import deferLater

from torknock.client.round_errors import BridgeSilent
from torknock.errors import TorknockError
from torknock.kernel.interfaces import IReactor
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.protocol.bridge_line import BridgeLine, Scheme
from torknock.tor.link import NotTor, Relay, asking

TIMEOUT = 5.0
"""Seconds that a stranger waits for an answer: as long as a client does."""

TOR_TIMEOUT = 20.0
"""Seconds that tor may take to say who it is."""

END_TIMEOUT = 5.0
"""Seconds that the bridge may take to end a connection."""

_NEIGHBOURS = 3


class Chance(Protocol):
    """What chooses ports: `secrets.SystemRandom`."""

    def randrange(self, start: int, stop: int) -> int:
        """A number from *start* on, below *stop*."""


class Reply(enum.Enum):
    """What a stranger's SYN got."""

    REFUSED = "closed"
    SILENT = "silent"
    ACCEPTED = "open"
    UNREACHABLE = "unreachable"
    """A router, or the host's firewall, says that there is no way."""


@dataclass(frozen=True, slots=True)
class Approach:
    """What a stranger got at a port."""

    port: int
    reply: Reply
    ms: int


async def check(
    reactor: IReactor,
    bridge_line: BridgeLine,
    endpoint: IStreamClientEndpoint,
    minutes_slow: Callable[[], int],
) -> list[Finding]:
    """Whether *endpoint* (`transport.bridges.Bridges`) opens the bridge of *bridge_line*, and whether tor is behind it.

    *minutes_slow* tells how far this clock is behind the bridge's, once the line has opened it. Nothing is sent that a
    tor client with this line would not send, and the connection ends as a client's does.
    """
    return await _opened(reactor, bridge_line, endpoint) + clocks(minutes_slow())


async def check_as_stranger(reactor: IReactor, bridge_line: BridgeLine, chance: Chance) -> list[Finding]:
    """Whether the bridge's port is hidden, and does as three other ports of its host do.

    Sends SYNs without a token to each of them. They carry nothing of the line, but an observer who sees them and then a
    connection to the bridge knows that this address belongs to someone who knows of the bridge.
    """
    host, port = str(bridge_line.address), bridge_line.port
    neighbours = _neighbours(port, chance)
    approaches: list[Approach] = await gatherResults(
        [Deferred.fromCoroutine(approach(reactor, host, each)) for each in (port, *neighbours)],
        consumeErrors=True,
    )
    itself, others = approaches[0], approaches[1:]
    return [await _stranger(reactor, host, itself), stands_out(itself.reply, [other.reply for other in others])]


def _neighbours(port: int, chance: Chance) -> list[int]:
    """Ports that are most likely unused: above those of services, below those that Linux gives to clients."""
    chosen: list[int] = []
    while len(chosen) < _NEIGHBOURS:
        if (candidate := chance.randrange(10_000, 32_768)) not in (port, *chosen):
            chosen.append(candidate)
    return chosen


async def approach(reactor: IReactor, host: str, port: int) -> Approach:
    """Connect as a stranger would, and send nothing."""
    start = reactor.seconds()
    factory: Factory[Connection] = Factory.forProtocol(Connection)
    factory.noisy = False
    try:
        connected: Any = await _endpoint(reactor, host, port, TIMEOUT).connect(factory)
        connected.transport.abortConnection()
        reply = Reply.ACCEPTED
    except ConnectionRefusedError:
        reply = Reply.REFUSED
    except (ConnectTimeout, TCPTimedOutError):
        reply = Reply.SILENT
    except (NoRouteError, ConnectError):
        reply = Reply.UNREACHABLE
    return Approach(port, reply, _ms(reactor, start))


async def _stranger(reactor: IReactor, host: str, itself: Approach) -> Finding:
    name, ms = "stranger", itself.ms
    match itself.reply:
        case Reply.REFUSED:
            return ok(name, "the port is closed to a stranger", ms)
        case Reply.SILENT:
            return ok(name, f"the port does not answer a stranger within {TIMEOUT:.0f} s", ms)
        case Reply.UNREACHABLE:
            why = "a router or a firewall answers a stranger that the host is unreachable"
            return unknown(name, why, "check from another network", ms)
    if await _is_tor(reactor, host, itself.port):
        why = "tor itself answers a stranger: the bridge is not hidden"
        return not_ok(name, why, "on the bridge, as root: torknock setup bridge", ms)
    return ok(name, "something that is not tor answers a stranger: a decoy", ms)


async def _is_tor(reactor: IReactor, host: str, port: int) -> bool:
    """Whether tor answers any client that connects."""
    asked: Deferred[Relay] = Deferred()
    try:
        connected: Any = await _endpoint(reactor, host, port, TIMEOUT).connect(asking(asked))
    except ConnectError:
        return False
    try:
        await asked.addTimeout(TOR_TIMEOUT, reactor)
    except (NotTor, ConnectionClosed, TimeoutError, OSError, SSL.Error):
        return False
    finally:
        connected.transport.abortConnection()
    return True


def stands_out(itself: Reply, others: Sequence[Reply]) -> Finding:
    """Whether the bridge's port does as the host's other ports do."""
    name = "other ports"
    if itself is Reply.ACCEPTED:
        return ok(name, "an open port does not stand out")
    if len(set(others)) > 1:
        why = f"{len(others)} other ports of the host differ from each other: {_listed(others)}"
        return unknown(name, why, "on the bridge: torknock doctor bridge")
    if others[0] is itself:
        return ok(name, f"{len(others)} other ports of the host are {itself.value}, too")
    why = f"{len(others)} other ports of the host are {others[0].value}, the bridge's is {itself.value}: it stands out"
    fitting = {Reply.REFUSED: "closed", Reply.SILENT: "filtered"}.get(others[0])
    if fitting is None:
        return not_ok(name, why, "on the bridge: let the firewall drop what it rejects, and use posture=filtered")
    return not_ok(name, why, f"on the bridge: use posture={fitting} in ServerTransportOptions")


def _listed(replies: Sequence[Reply]) -> str:
    return ", ".join(reply.value for reply in replies)


async def _opened(reactor: IReactor, bridge_line: BridgeLine, endpoint: IStreamClientEndpoint) -> list[Finding]:
    """Whether the line opens the bridge, and whether tor is behind it."""
    start = reactor.seconds()
    asked: Deferred[Relay] = Deferred()
    over: Deferred[None] = Deferred()
    try:
        connected = await _connected(reactor, bridge_line, endpoint, asking(asked, over))
    except (TorknockError, ConnectError) as error:
        return [_not_opened(error, _ms(reactor, start)), _not_asked()]
    opened = ok("line", "the line opens the bridge", _ms(reactor, start))
    start = reactor.seconds()
    try:
        relay = await asked.addTimeout(TOR_TIMEOUT, reactor)
    except (BridgeSilent, ConnectError) as error:  # a line with `integrity` is dialled only now
        return [_not_opened(error, _ms(reactor, start)), _not_asked()]
    except NotTor as error:
        return [opened, _no_tor(str(error), _ms(reactor, start))]
    except TimeoutError:
        return [opened, _no_tor(f"nothing answers behind it within {TOR_TIMEOUT:.0f} s", _ms(reactor, start))]
    except (TorknockError, ConnectionClosed, OSError, SSL.Error):
        why = "the bridge closes the connection: its tor may be down, or the line was revoked a moment ago"
        return [opened, _no_tor(why, _ms(reactor, start))]
    finally:
        await _end(reactor, connected, over)
    return [opened, whose(relay, bridge_line, _ms(reactor, start))]


async def _connected(reactor: IReactor, bridge_line: BridgeLine, endpoint: IStreamClientEndpoint, factory: Any) -> Any:
    """The connection that the line opens. A clock that is wrong by more than ten minutes takes a second round."""
    try:
        return await endpoint.connect(factory)
    except BridgeSilent as error:
        if bridge_line.line.scheme is not Scheme.TOKEN:
            raise
        await deferLater(reactor, max(error.again_in, 0.0))
    return await endpoint.connect(factory)


async def _end(reactor: IReactor, connected: Any, over: Deferred[None]) -> None:
    """End the connection as a client does whose tor has closed it: this direction first, then the bridge's."""
    await deferLater(reactor, 0)  # not while tor's answer is still being read
    if over.called:
        return
    connected.end()
    try:
        await over.addTimeout(END_TIMEOUT, reactor)
    except TimeoutError:
        connected.transport.abortConnection()


def _not_opened(error: Exception, ms: int) -> Finding:
    """A bridge that refuses is a fault of the line or the bridge; with any other *error* no SYN was judged."""
    why = error.what if isinstance(error, TorknockError) else "the bridge's host cannot be reached from here"
    remedy = error.remedy if isinstance(error, TorknockError) else ""
    if isinstance(error, BridgeSilent):
        return not_ok("line", why, remedy or "ask the operator whether the bridge runs and the line is valid", ms)
    return unknown("line", why, remedy or "see torknock doctor client", ms)


def _no_tor(why: str, ms: int) -> Finding:
    return not_ok("tor", why, "on the bridge: torknock doctor bridge", ms)


def clocks(minutes_slow: int) -> list[Finding]:
    """What to say of a clock that is so many minutes slow; nothing of one that is right."""
    if not minutes_slow:
        return []
    way = "behind" if minutes_slow > 0 else "ahead of"
    why = f"this clock is about {abs(minutes_slow)} minutes {way} the bridge's"
    return [not_ok("clock", why, "set the clock that is wrong")]


def _not_asked() -> Finding:
    return unknown("tor", "not asked, because the line did not open the bridge", "fix that first")


def whose(relay: Relay, bridge_line: BridgeLine, ms: int) -> Finding:
    """Whether the tor that answered is the one that the line names."""
    if bridge_line.fingerprint is None:
        return ok("tor", "tor answers; its identity was not verified, because the line has no fingerprint", ms)
    remedy = "do not use this line; ask the operator for a new one"
    if relay.fingerprint is None:
        return not_ok("tor", "tor answers, but does not prove its identity", remedy, ms)
    if not hmac.compare_digest(relay.fingerprint, bridge_line.fingerprint):
        return not_ok("tor", "tor answers, but it is another tor than the one that the line names", remedy, ms)
    return ok("tor", "tor answers, and proves the fingerprint in the line", ms)


def _endpoint(reactor: IReactor, host: str, port: int, timeout: float) -> IStreamClientEndpoint:
    kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    return kind(reactor, host, port, timeout=timeout)


def _ms(reactor: IReactor, start: float) -> int:
    took: float = reactor.seconds() - start
    return round(took * 1000)
