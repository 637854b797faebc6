"""Knocks with tokens until the bridge answers, or the rules of protocol.md §2.4 say that it is enough."""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torknock.client.attempts import TIMEOUT_ALONE, TIMEOUTS, Chance, nearer_side, to_the_next_epoch, unused
from torknock.client.clock_offset import ClockOffset
from torknock.client.memory import Memory, MemoryHeld, line_id
from torknock.client.rounds import Knocked, Opener, Rounds, T
from torknock.errors import TorknockError
from torknock.interfaces import CannotKnock, IDialer
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import NEIGHBOURS, epoch_at

_log = Logger()

_HELD_AT_MOST = 10.0
"""Seconds for which a knock waits while another program holds the file of used tokens."""

_HELD_ASKED = 0.25
"""Seconds between two looks whether it is free."""

_HELD_MOMENT = 1.0
"""Seconds after which it is said that a knock waits."""


class TokensSpent(TorknockError):
    """Every token that is valid now was used."""

    def __init__(self) -> None:
        super().__init__(
            "all tokens of this bridge line that are valid now were used",
            "wait up to 5 minutes, or ask for a line with more (n=)",
        )


@define
class _Bridge:
    """What is remembered of a bridge for the life of the process."""

    rounds: Rounds
    clock_offset: ClockOffset
    near: Line | None = None
    """The line, as far as it was derived last."""


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

    def knock(self, line: Line, host: str, port: int, opened: Opener[T], deadline: float = inf) -> Deferred[T]:
        """What *opened* makes of a connection to the bridge at *host*, an IP literal, and *port*.

        *deadline* see `Rounds.run`.

        A SYN that is answered by something else, as *opened* says by `WrongPeer`, has failed as a refused one has, and
        the next token is tried. Fails as `Rounds.run` does; also with `TokensSpent`.
        """
        bridge = self._bridge(line, host, port)
        tokens = _Tokens(line, bridge, self._memory, self._clock, self._now)
        plan = _TokenRound(tokens, bridge, lambda isn: self._dialer.dial(host, port, isn))
        return bridge.rounds.run(plan, opened, deadline)

    def minutes_slow(self, line: Line, host: str, port: int) -> int:
        """See `ClockOffset.minutes_slow`."""
        return self._bridge(line, host, port).clock_offset.minutes_slow()

    def _bridge(self, line: Line, host: str, port: int) -> _Bridge:
        name = line_id(line), host, port
        if name not in self._bridges:
            self._bridges[name] = _Bridge(Rounds(self._clock, self._chance), ClockOffset(self._clock, self._now))
        return self._bridges[name]


@define
class _TokenRound:
    """A round of SYNs of scheme `token`."""

    _tokens: _Tokens
    _bridge: _Bridge
    _dial: Callable[[int], Deferred[socket.socket]]
    _offsets: tuple[int, ...] = ()
    reasons: str = (
        "the line may be revoked, its tokens used by another device, this clock wrong, or a network on the way may "
        "rewrite sequence numbers"
    )

    async def begin(self) -> int:
        await self._tokens.epoch_lasts()
        rounds = self._bridge.rounds
        if self._bridge.clock_offset.forget_after_step():
            rounds.failed = 0
        self._offsets = self._tokens.begin(rounds.failed)
        return len(self._offsets)

    def timeout(self, number: int) -> float:
        return TIMEOUT_ALONE if self.ends(number) else TIMEOUTS[number]

    async def dial(self, number: int) -> Knocked | None:
        await self._tokens.epoch_lasts()
        rounds = self._bridge.rounds
        token = await self._tokens.claim(self._offsets[number], any_valid=not number)
        if token is None:
            if not rounds.syns.attempts:
                raise TokensSpent
            return None
        epoch, isn = token
        try:
            connected = await rounds.syns.dial(lambda: self._dial(isn), self.timeout(number))
        except CannotKnock:
            self._tokens.unclaim(token)
            raise
        return Knocked(connected, isn, epoch, rounds.hung_up)

    def ends(self, number: int) -> bool:
        return len(self._offsets) == 1 or self._bridge.rounds.syns.far

    def accepted(self, number: int) -> None:
        self._bridge.clock_offset.accepted(self._offsets[number])


class _Tokens:
    """The tokens of one line that a round may use."""

    def __init__(
        self, line: Line, bridge: _Bridge, memory: Memory, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._line, self._name = line, line_id(line)
        self._bridge, self._memory, self._clock, self._now = bridge, memory, clock, now
        self._near = line
        """*line* as it was shortly before: the tokens of later epochs are a few steps away."""

    async def epoch_lasts(self) -> None:
        """Wait until a SYN would arrive in the epoch in which it leaves."""
        if seconds := to_the_next_epoch(self._now()):
            await deferLater(self._clock, seconds)

    def begin(self, failed_rounds: int) -> tuple[int, ...]:
        """The epochs that the next round tries, as offsets from this clock's."""
        epoch = epoch_at(self._now())
        self._memory.forget(epoch)
        offsets = self._bridge.clock_offset.offsets(failed_rounds, self._line.first_epoch)
        earliest = epoch + min(offsets) - NEIGHBOURS
        if self._bridge.near is None or self._bridge.near.first_epoch > earliest:
            self._bridge.near = self._line
        self._near = self._bridge.near = self._bridge.near.forward(earliest)
        return offsets

    async def claim(self, offset: int, any_valid: bool) -> tuple[int, int] | None:
        """An unused token of the epoch at *offset*, or of one beside it if *any_valid*: its epoch and ISN.

        None if all are used. Waits while another program holds the file of used tokens, and then raises `CannotKnock`.
        """
        began, said = self._clock.seconds(), False
        while True:
            try:
                return self._claimed(offset, any_valid)
            except MemoryHeld as error:
                waited = self._clock.seconds() - began
                if waited >= _HELD_AT_MOST:
                    raise CannotKnock(f"no knock is sent: {error}") from error
                if waited >= _HELD_MOMENT and not said:
                    said = True
                    _log.warn("a knock waits for at most {most} s: {why}", most=round(_HELD_AT_MOST), why=str(error))
            await deferLater(self._clock, _HELD_ASKED)

    def unclaim(self, token: tuple[int, int]) -> None:
        """No SYN has left with *token*: it may be used."""
        self._memory.unclaim(self._name, *token)

    def _claimed(self, offset: int, any_valid: bool) -> tuple[int, int] | None:
        now = self._now()
        epoch, side = epoch_at(now) + offset, nearer_side(now)
        epochs = (epoch, epoch + side, epoch - side) if any_valid else (epoch,)
        used, start = self._memory.used(self._name), self._memory.start(self._name)
        while token := unused(self._near.tokens, epochs, used, start):
            if self._memory.claim(self._name, *token):
                return token
            used = self._memory.used(self._name)
        return None
