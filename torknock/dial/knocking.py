"""Knocks until the bridge answers, or the rules of protocol.md §2.4 say that it is enough."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torknock.dial.attempts import FRESH, Attempt, Chance, attempts
from torknock.dial.interfaces import CannotKnock, IDialer
from torknock.dial.memory import Memory, line_id
from torknock.errors import TorknockError
from torknock.isn.token import EPOCH, epoch_at, tokens
from torknock.line import Line

_log = Logger()

SEARCH_AGAIN_AFTER = 600.0
"""Seconds between two clock searches for one bridge."""

REST = (0.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds without a SYN after so many rounds in vain: tor asks again every second."""

_CLOCK_SET = EPOCH / 2
"""Seconds by which wall time must jump, because somebody has set it, for a known offset to be given up."""

_PORT_TRIES = 3
"""How often a source port is asked for when somebody else is quicker to take it."""


class BridgeSilent(TorknockError):
    """The bridge did not let us in; its cause is the error of the last SYN.

    *refused* says whether a RST came; if not, nothing came.
    """

    def __init__(self, text: str, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


class TokensSpent(TorknockError):
    """Every token that is valid now was used."""

    def __init__(self) -> None:
        super().__init__(
            "all tokens of this bridge line that are valid now were used; wait up to 5 minutes, "
            "or ask for a line with more (n=)"
        )


@dataclass(frozen=True, slots=True)
class Knocked:
    """A connection that a knock has opened: its socket, the caller's to close, and its ISN."""

    socket: socket.socket
    isn: int


@define
class _Bridge:
    """What is remembered of a bridge for the life of the process."""

    one_at_a_time: DeferredLock = field(factory=DeferredLock)
    offset: int = 0
    """Its epoch less ours, as far as is known."""
    offset_before: int = 0
    """What `offset` was before the last answer, which may turn out to be no bridge's."""
    clocks_apart: float = 0.0
    """Wall time less the reactor's time when the offset was found: if it changes, somebody has set the clock."""
    searched: float | None = None
    in_vain: int = 0
    """Rounds, since the last that was not."""
    in_vain_before: int = 0
    """As `offset_before`."""
    rests_until: float = 0.0
    last_error: Exception | None = None


class Knocker:
    """Knocks at bridges, one round at a time at each.

    *clock* times the waits, *now* tells the date, *chance* is a `secrets.SystemRandom`.
    """

    def __init__(
        self, dialer: IDialer, clock: IReactorTime, now: Callable[[], float], chance: Chance, memory: Memory
    ) -> None:
        self._dialer = dialer
        self._clock = clock
        self._now = now
        self._chance = chance
        self._memory = memory
        self._bridges: dict[tuple[bytes, str, int], _Bridge] = {}

    def knock(self, line: Line, host: str, port: int) -> Deferred[Knocked]:
        """A connection to the bridge at *host*, an IP literal, and *port*.

        Fails with `BridgeSilent` after a round in vain, and then for a while without sending anything; with
        `TokensSpent`; with `CannotKnock` if this host cannot; and with a `ConnectError` if a network on the way
        says that there is no way to the bridge.
        """
        bridge = self._bridge(line, host, port)
        return bridge.one_at_a_time.run(self._round, bridge, line, host, port)

    def disappointed(self, line: Line, host: str, port: int) -> None:
        """What answered a knock was not the bridge: let it rest, as after a round in vain."""
        bridge = self._bridge(line, host, port)
        bridge.in_vain = max(bridge.in_vain, bridge.in_vain_before)
        bridge.offset = bridge.offset_before
        bridge.last_error = TorknockError("what answered was not the bridge")
        self._rest(bridge)

    def minutes_slow(self, line: Line, host: str, port: int) -> int:
        """By about how many minutes this clock is behind the bridge's, as knocks found out; negative if it is ahead.

        0 if they agree well enough, or nothing is known.
        """
        return self._minutes_slow(self._bridge(line, host, port))

    def _bridge(self, line: Line, host: str, port: int) -> _Bridge:
        return self._bridges.setdefault((line_id(line), host, port), _Bridge())

    async def _round(self, bridge: _Bridge, line: Line, host: str, port: int) -> Knocked:
        if self._clock.seconds() < bridge.rests_until:
            raise _silent(bridge, "the bridge is let rest after knocks in vain") from bridge.last_error
        in_vain = 0
        try:
            for attempt in self._attempts(bridge, line):
                await deferLater(self._clock, attempt.pause)
                if not self._memory.claim(line_id(line), attempt.epoch, attempt.isn):
                    continue
                try:
                    connected = await self._dial(host, port, attempt)
                except CannotKnock:
                    self._memory.unclaim(line_id(line), attempt.epoch, attempt.isn)
                    raise
                except (TimeoutError, TCPTimedOutError, ConnectionRefusedError) as error:
                    bridge.last_error = error
                    in_vain += 1
                else:
                    in_vain = 0
                    self._answered(bridge, attempt)
                    return Knocked(connected, attempt.isn)
            if not in_vain:
                raise TokensSpent
            raise _silent(bridge, f"the bridge let none of {in_vain} knocks in") from bridge.last_error
        except (ConnectError, CancelledError) as error:
            bridge.last_error = error
            in_vain += 1
            raise
        finally:
            if in_vain:
                self._rest(bridge)

    def _attempts(self, bridge: _Bridge, line: Line) -> Iterator[Attempt]:
        """The attempts of a round that begins now. A search counts from when its first one is taken."""
        if bridge.offset and abs(self._apart() - bridge.clocks_apart) > _CLOCK_SET:
            bridge.offset, bridge.searched = 0, None
        epoch = epoch_at(self._now())
        self._memory.forget(epoch)
        for attempt in attempts(
            lambda some_epoch: tokens(line.secret, line.bridge_name, some_epoch, line.n),
            epoch + bridge.offset,
            self._memory.used(line_id(line)),
            self._chance,
            fresh=1 if bridge.in_vain else FRESH,  # a bridge that is down must not use up the tokens of its return
            search=bridge.searched is None or self._clock.seconds() - bridge.searched >= SEARCH_AGAIN_AFTER,
        ):
            if attempt.search:
                bridge.searched = self._clock.seconds()
            yield attempt

    async def _dial(self, host: str, port: int, attempt: Attempt) -> socket.socket:
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                return await self._dialer.dial(host, port, attempt.isn).addTimeout(attempt.patience, self._clock)
            except CannotKnock as error:
                if not tries_left or error.number not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
        raise AssertionError("the last try returns or raises")

    def _rest(self, bridge: _Bridge) -> None:
        bridge.in_vain = min(bridge.in_vain + 1, len(REST) - 1)
        bridge.rests_until = self._clock.seconds() + REST[bridge.in_vain] * self._chance.uniform(0.8, 1.2)

    def _answered(self, bridge: _Bridge, attempt: Attempt) -> None:
        bridge.in_vain, bridge.in_vain_before = 0, bridge.in_vain
        bridge.offset_before = bridge.offset
        bridge.rests_until = 0.0
        bridge.last_error = None
        if not attempt.offset:
            return
        bridge.offset += attempt.offset
        bridge.clocks_apart = self._apart()
        if minutes := self._minutes_slow(bridge):
            _log.info(
                "this clock is about {minutes} minutes {way}; set it, and knocks need no search",
                minutes=abs(minutes),
                way="slow" if minutes > 0 else "fast",
            )

    def _minutes_slow(self, bridge: _Bridge) -> int:
        if not bridge.offset:
            return 0
        seconds = bridge.offset * EPOCH + EPOCH / 2 - self._now() % EPOCH  # the middle of what is possible
        return round(seconds / 60)

    def _apart(self) -> float:
        return self._now() - self._clock.seconds()


def _silent(bridge: _Bridge, what: str) -> BridgeSilent:
    error = bridge.last_error
    refused = isinstance(error, ConnectionRefusedError)
    if refused:
        how = "it refused"
    else:
        how = str(error) if isinstance(error, (TorknockError, ConnectError)) else "nothing came back"
    why = "the line may be revoked, this clock wrong, or a network on the way may rewrite sequence numbers"
    return BridgeSilent(f"{what} ({how}); {why}", refused)
