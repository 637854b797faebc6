"""`torknock check`: does a line open its bridge, does tor answer behind it, is the bridge hidden? Seen from outside."""

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

from torknock.client.knocker import BridgeSilent
from torknock.errors import TorknockError
from torknock.operate.finding import State
from torknock.protocol.bridge_line import BridgeLine
from torknock.tor.link import NotTor, Relay, asking

PATIENCE = 5.0
"""Seconds that a stranger waits for an answer: as long as a client does."""

TOR_PATIENCE = 20.0
"""Seconds that tor may take to say who it is."""

END_PATIENCE = 5.0
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
class Answer:
    """One question's answer, in a sentence."""

    name: str
    state: State
    sentence: str
    ms: int | None = None
    """How long it took."""


@dataclass(frozen=True, slots=True)
class Approach:
    """What a stranger got at a port."""

    port: int
    reply: Reply
    ms: int


async def check(
    reactor: Any,
    bridge_line: BridgeLine,
    endpoint: IStreamClientEndpoint,
    minutes_slow: Callable[[], int],
) -> list[Answer]:
    """Whether *endpoint* (`transport.bridges.Bridges`) opens the bridge of *bridge_line*, and whether tor is behind it.

    *minutes_slow* tells how far this clock is behind the bridge's, once the line has opened it. Nothing is sent that a
    tor client with this line would not send, and the connection ends as a client's does.
    """
    return await _opened(reactor, bridge_line, endpoint) + clocks(minutes_slow())


async def check_as_stranger(reactor: Any, bridge_line: BridgeLine, chance: Chance) -> list[Answer]:
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


async def approach(reactor: Any, host: str, port: int) -> Approach:
    """Connect as anybody would, and say nothing."""
    start = reactor.seconds()
    factory: Factory[Connection] = Factory.forProtocol(Connection)
    factory.noisy = False
    try:
        connected: Any = await _endpoint(reactor, host, port, PATIENCE).connect(factory)
        connected.transport.abortConnection()
        reply = Reply.ACCEPTED
    except ConnectionRefusedError:
        reply = Reply.REFUSED
    except (ConnectTimeout, TCPTimedOutError):
        reply = Reply.SILENT
    except (NoRouteError, ConnectError):
        reply = Reply.UNREACHABLE
    return Approach(port, reply, _ms(reactor, start))


async def _stranger(reactor: Any, host: str, itself: Approach) -> Answer:
    name, ms = "stranger", itself.ms
    match itself.reply:
        case Reply.REFUSED:
            return Answer(name, State.OK, "the port is closed to a stranger", ms)
        case Reply.SILENT:
            return Answer(name, State.OK, f"the port says nothing to a stranger in {PATIENCE:.0f} s", ms)
        case Reply.UNREACHABLE:
            return Answer(name, State.UNKNOWN, "a stranger is told that there is no way to the host", ms)
    if await _is_tor(reactor, host, itself.port):
        return Answer(name, State.NOT_OK, "tor itself answers a stranger: the bridge is not hidden", ms)
    return Answer(name, State.OK, "a stranger is let in, to something that is not tor: a decoy", ms)


async def _is_tor(reactor: Any, host: str, port: int) -> bool:
    """Whether tor answers whoever connects."""
    asked: Deferred[Relay] = Deferred()
    try:
        connected: Any = await _endpoint(reactor, host, port, PATIENCE).connect(asking(asked))
    except ConnectError:
        return False
    try:
        await asked.addTimeout(TOR_PATIENCE, reactor)
    except (NotTor, ConnectionClosed, TimeoutError, OSError, SSL.Error):
        return False
    finally:
        connected.transport.abortConnection()
    return True


def stands_out(itself: Reply, others: Sequence[Reply]) -> Answer:
    """Whether the bridge's port does as the host's other ports do."""
    name = "other ports"
    if itself is Reply.ACCEPTED:
        return Answer(name, State.OK, "an open port does not stand out")
    if len(set(others)) > 1:
        return Answer(name, State.UNKNOWN, f"{len(others)} others do not do the same: {_listed(others)}")
    if others[0] is itself:
        return Answer(name, State.OK, f"{len(others)} others are {itself.value}, too")
    fitting = {Reply.REFUSED: "posture=closed", Reply.SILENT: "posture=filtered"}.get(others[0])
    remedy = f"; {fitting} on the bridge fits" if fitting else ""
    sentence = f"{len(others)} others are {others[0].value}, and the bridge's is {itself.value}: it stands out{remedy}"
    return Answer(name, State.NOT_OK, sentence)


def _listed(replies: Sequence[Reply]) -> str:
    return ", ".join(reply.value for reply in replies)


async def _opened(reactor: Any, bridge_line: BridgeLine, endpoint: IStreamClientEndpoint) -> list[Answer]:
    """Whether the line opens the bridge, and whether tor is behind it."""
    start = reactor.seconds()
    asked: Deferred[Relay] = Deferred()
    over: Deferred[None] = Deferred()
    try:
        connected = await _connected(reactor, bridge_line, endpoint, asking(asked, over))
    except (TorknockError, ConnectError) as error:
        return [_not_opened(error, _ms(reactor, start)), _not_asked()]
    opened = Answer("line", State.OK, "the line opens the bridge", _ms(reactor, start))
    start = reactor.seconds()
    try:
        relay = await asked.addTimeout(TOR_PATIENCE, reactor)
    except (BridgeSilent, ConnectError) as error:  # a line with `integrity` is dialled only now
        return [_not_opened(error, _ms(reactor, start)), _not_asked()]
    except NotTor as error:
        return [opened, Answer("tor", State.NOT_OK, str(error), _ms(reactor, start))]
    except TimeoutError:
        return [opened, Answer("tor", State.NOT_OK, "nothing answers behind it", _ms(reactor, start))]
    except (TorknockError, ConnectionClosed, OSError, SSL.Error):
        sentence = "what is behind it hangs up: tor may be down, or the line revoked a moment ago"
        return [opened, Answer("tor", State.NOT_OK, sentence, _ms(reactor, start))]
    finally:
        await _end(reactor, connected, over)
    return [opened, whose(relay, bridge_line, _ms(reactor, start))]


async def _connected(reactor: Any, bridge_line: BridgeLine, endpoint: IStreamClientEndpoint, factory: Any) -> Any:
    """The connection that the line opens. A clock that is wrong by more than ten minutes takes a second round."""
    try:
        return await endpoint.connect(factory)
    except BridgeSilent as error:
        if bridge_line.line.scheme != "token":
            raise
        await deferLater(reactor, max(error.again_in, 0.0))
    return await endpoint.connect(factory)


async def _end(reactor: Any, connected: Any, over: Deferred[None]) -> None:
    """End the connection as a client does whose tor has closed it: this direction first, then the bridge's."""
    await deferLater(reactor, 0)  # not while tor's answer is still being read
    if over.called:
        return
    connected.end()
    try:
        await over.addTimeout(END_PATIENCE, reactor)
    except TimeoutError:
        connected.transport.abortConnection()


def _not_opened(error: Exception, ms: int) -> Answer:
    closed = isinstance(error, BridgeSilent)
    said = str(error) if isinstance(error, TorknockError) else "there is no way to the bridge"
    return Answer("line", State.NOT_OK if closed else State.UNKNOWN, said, ms)


def clocks(minutes_slow: int) -> list[Answer]:
    """What to say of a clock that is so many minutes slow; nothing of one that is right."""
    if not minutes_slow:
        return []
    way = "behind" if minutes_slow > 0 else "ahead of"
    sentence = f"this clock is about {abs(minutes_slow)} minutes {way} the bridge's; set the one that is wrong"
    return [Answer("clock", State.NOT_OK, sentence)]


def _not_asked() -> Answer:
    return Answer("tor", State.UNKNOWN, "not asked, because the line did not open")


def whose(relay: Relay, bridge_line: BridgeLine, ms: int) -> Answer:
    """Whether the tor that answered is the one that the line names."""
    if bridge_line.fingerprint is None:
        sentence = "tor answers; the line has no fingerprint, so whose tor it is was not verified"
        return Answer("tor", State.OK, sentence, ms)
    if relay.fingerprint is None:
        return Answer("tor", State.NOT_OK, "tor answers, and does not prove the identity that it has", ms)
    if not hmac.compare_digest(relay.fingerprint, bridge_line.fingerprint):
        return Answer("tor", State.NOT_OK, "tor answers, and proves to be another than the line names", ms)
    return Answer("tor", State.OK, "tor answers, and proves the fingerprint in the line", ms)


def _endpoint(reactor: Any, host: str, port: int, patience: float) -> IStreamClientEndpoint:
    kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    return kind(reactor, host, port, timeout=patience)


def _ms(reactor: Any, start: float) -> int:
    took: float = reactor.seconds() - start
    return round(took * 1000)
