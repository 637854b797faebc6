"""Knocks until the bridge answers, or the rules of protocol.md §2.4 say that it is enough."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torknock.dial.attempts import SEARCHED, Attempt, Chance, attempts
from torknock.dial.interfaces import CannotKnock, IDialer
from torknock.dial.memory import Memory, line_id
from torknock.errors import TorknockError
from torknock.isn.token import EPOCH, NEIGHBOURS, epoch_at, tokens
from torknock.line import Line

_log = Logger()

SEARCH_AGAIN_AFTER = 600.0
"""Seconds between two clock searches for one bridge."""

REST = (0.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds without a SYN after so many rounds in vain: tor asks again every second."""


class BridgeSilent(TorknockError):
    """The bridge did not let us in; `refused` says whether something answered at all."""

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
    """A connection that a knock has opened."""

    socket: socket.socket
    isn: int


@define
class _Bridge:
    """What is remembered of a bridge for the life of the process."""

    one_at_a_time: DeferredLock = field(factory=DeferredLock)
    offset: int = 0
    """Its epoch less ours, as far as is known."""
    searched: float | None = None
    rounds_in_vain: int = 0
    rests_until: float = 0.0
    refused: bool = False


class Knocker:
    """Knocks at bridges, one round at a time at each.

    *clock* times the waits, *now* tells the date, *chance* is `random.SystemRandom`'s.
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
        `TokensSpent`; with `CannotKnock`; and with a `ConnectError` if there is no way to the host.
        """
        bridge = self._bridges.setdefault((line_id(line), host, port), _Bridge())
        return bridge.one_at_a_time.run(self._round, bridge, line, host, port)

    def disappointed(self, line: Line, host: str, port: int) -> None:
        """What answered a knock was not the bridge: let it rest, as after a round in vain."""
        self._rest(self._bridges.setdefault((line_id(line), host, port), _Bridge()))

    async def _round(self, bridge: _Bridge, line: Line, host: str, port: int) -> Knocked:
        if self._clock.seconds() < bridge.rests_until:
            self._give_up(bridge, "the bridge did not answer a moment ago; it is let rest")
        name = line_id(line)
        epoch = epoch_at(self._now()) + bridge.offset
        reach = range(epoch - SEARCHED - NEIGHBOURS, epoch + SEARCHED + NEIGHBOURS + 1)
        self._memory.forget(name, reach[0] - SEARCHED)
        used = self._memory.used(name, reach)
        sent = 0
        for attempt in attempts(
            lambda some_epoch: tokens(line.secret, line.bridge_name, some_epoch, line.n),
            epoch, used, self._may_search(bridge), self._chance,
        ):  # fmt: skip
            if attempt.searched and not sent:
                break
            if attempt.searched:
                bridge.searched = self._clock.seconds()
            await deferLater(self._clock, attempt.pause)
            if not self._memory.claim(name, attempt.epoch, attempt.isn):
                continue
            sent += 1
            try:
                knocked = await self._dialer.dial(host, port, attempt.isn).addTimeout(attempt.patience, self._clock)
            except CannotKnock:
                self._memory.unclaim(name, attempt.epoch, attempt.isn)
                raise
            except TimeoutError:
                bridge.refused = False
            except ConnectError as error:
                if error.osError in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                    raise
                bridge.refused = True
            else:
                self._answered(bridge, attempt)
                return Knocked(knocked, attempt.isn)
        if not sent:
            raise TokensSpent
        self._rest(bridge)
        self._give_up(bridge, f"the bridge did not let {sent} knocks in")

    def _may_search(self, bridge: _Bridge) -> bool:
        return bridge.searched is None or self._clock.seconds() - bridge.searched > SEARCH_AGAIN_AFTER

    def _rest(self, bridge: _Bridge) -> None:
        bridge.rounds_in_vain = min(bridge.rounds_in_vain + 1, len(REST) - 1)
        bridge.rests_until = self._clock.seconds() + REST[bridge.rounds_in_vain] * self._chance.uniform(0.8, 1.2)

    def _give_up(self, bridge: _Bridge, what: str) -> NoReturn:
        how = "it refused" if bridge.refused else "it was silent"
        why = "the line may be revoked, this clock wrong, or a network on the way may rewrite sequence numbers"
        raise BridgeSilent(f"{what} ({how}); {why}", bridge.refused)

    def _answered(self, bridge: _Bridge, attempt: Attempt) -> None:
        bridge.rounds_in_vain = 0
        bridge.rests_until = 0.0
        if attempt.offset:
            bridge.offset += attempt.offset
            _log.info(
                "this clock is about {minutes} minutes {way}; set it",
                minutes=abs(bridge.offset) * EPOCH // 60,
                way="slow" if bridge.offset > 0 else "fast",
            )
