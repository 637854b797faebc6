"""Knocks until the bridge answers, or the rules of protocol.md §2.4 say that it is enough."""

from __future__ import annotations

import errno
from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torknock.client.attempts import (
    PATIENCE,
    PATIENCE_ALONE,
    Chance,
    nearer_side,
    offsets,
    proving,
    to_the_next_epoch,
    unused,
)
from torknock.client.memory import Memory, MemoryHeld, line_id
from torknock.client.rounds import (
    FAILURES,
    SEARCH_AGAIN_AFTER,
    BridgeSilent,
    Knocked,
    NotTheBridge,
    Opener,
    Rounds,
    T,
    WrongPeer,
)
from torknock.errors import TorknockError
from torknock.interfaces import CannotKnock, IDialer
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import EPOCH, NEIGHBOURS, epoch_at

__all__ = ["BridgeSilent", "Knocked", "Knocker", "NotTheBridge", "TokensSpent", "WrongPeer"]

_log = Logger()

_CLOCK_SET = EPOCH / 2
"""Seconds by which wall time must jump, because somebody has set it, for a known offset to be given up."""

_PORT_TRIES = 3
"""How often a source port is asked for when another program is quicker to take it."""

_HELD_AT_MOST = 10.0
"""Seconds for which a knock waits while another program holds the file of used tokens."""

_HELD_ASKED = 0.25
"""Seconds between two looks whether it is free."""

_HELD_MOMENT = 1.0
"""Seconds after which it is said that a knock waits."""

_WHY = (
    "the line may be revoked, its tokens used by another device, this clock wrong, or a network on the way may "
    "rewrite sequence numbers"
)


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
    offset: int = 0
    """The epoch whose tokens it takes, less ours, as far as is known."""
    doubtful: int = 0
    """A neighbour whose token it took once, after this epoch's was not: this clock may be wrong, or that token used."""
    suspected: int = 0
    """The same, where it did so twice: the next round finds out which it is."""
    proved_at: float = float("-inf")
    """When a round did so last, by the reactor's time."""
    near: Line | None = None
    """The line, as far as it was derived last."""
    clocks_apart: float = field(default=0.0)
    """Wall time less the reactor's time when the offset was found: if it changes, somebody has set the clock."""


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

    def knock(self, line: Line, host: str, port: int, opened: Opener[T]) -> Deferred[T]:
        """What *opened* makes of a connection to the bridge at *host*, an IP literal, and *port*.

        A SYN that is answered by something else, as *opened* says by `WrongPeer`, has failed as a refused one has, and
        the next token is tried. Fails with `BridgeSilent` after a failed round, and then for a while without sending
        anything; with `TokensSpent`; with `CannotKnock` if this host cannot; and with a `ConnectError` if a network on
        the way says that there is no way to the bridge.
        """
        bridge = self._bridge(line, host, port)
        return bridge.rounds.one_at_a_time.run(self._round, bridge, line, host, port, opened)

    def minutes_slow(self, line: Line, host: str, port: int) -> int:
        """By about how many minutes this clock is behind the bridge's, as knocks found out; negative if it is ahead.

        0 if they agree well enough, or nothing is known.
        """
        return self._minutes_slow(self._bridge(line, host, port))

    def _bridge(self, line: Line, host: str, port: int) -> _Bridge:
        name = line_id(line), host, port
        if name not in self._bridges:
            self._bridges[name] = _Bridge(Rounds(self._clock, self._chance))
        return self._bridges[name]

    async def _round(self, bridge: _Bridge, line: Line, host: str, port: int, opened: Opener[T]) -> T:
        rounds = bridge.rounds
        rounds.begin()
        await self._leave_the_end_alone()
        self._forget_offset_of_another_clock(bridge)
        epoch = epoch_at(self._now())
        self._memory.forget(epoch)
        if epoch + bridge.offset < line.first_epoch:  # it was issued at a time that this clock has yet to tell
            self._set_offset(bridge, line.first_epoch + NEIGHBOURS - epoch)
        if bridge.suspected and not rounds.failed:
            places = proving(bridge.suspected)
            bridge.proved_at = self._clock.seconds()
        else:
            places = offsets(rounds.failed, bridge.offset, nearer_side(self._now()))
        near = self._near(bridge, line, epoch + min(places) - NEIGHBOURS)
        alone = len(places) == 1
        try:
            for place, offset in enumerate(places):
                await rounds.pause(place)
                await self._leave_the_end_alone()
                token = await self._claim(line, near, offset, any_valid=not place)
                if token is None:
                    if not rounds.attempts:
                        raise TokensSpent
                    continue
                patience = PATIENCE_ALONE if alone or rounds.far else PATIENCE[place]
                try:
                    made = await self._attempt(bridge, line, (host, port), token, patience, opened)
                except (*FAILURES, WrongPeer) as error:
                    rounds.note(error)
                    if patience == PATIENCE_ALONE and rounds.spent():  # in silence: a refusal leaves room for another
                        break
                else:
                    self._found(bridge, offset)
                    return made
        except (ConnectError, CancelledError) as error:
            rounds.note(error)
            rounds.fail()
            raise
        rounds.fail()
        raise rounds.failure(_WHY)

    async def _leave_the_end_alone(self) -> None:
        if seconds := to_the_next_epoch(self._now()):
            await deferLater(self._clock, seconds)

    def _near(self, bridge: _Bridge, line: Line, epoch: int) -> Line:
        """What *line* has become in *epoch*: the tokens of later ones are a few steps away."""
        if bridge.near is None or bridge.near.first_epoch > epoch:
            bridge.near = line
        bridge.near = bridge.near.forward(epoch)
        return bridge.near

    async def _claim(self, line: Line, near: Line, offset: int, any_valid: bool) -> tuple[int, int] | None:
        """See `_claimed`; waits while another program holds the file of used tokens, and then raises `CannotKnock`."""
        began, said = self._clock.seconds(), False
        while True:
            try:
                return self._claimed(line, near, offset, any_valid)
            except MemoryHeld as error:
                waited = self._clock.seconds() - began
                if waited >= _HELD_AT_MOST:
                    raise CannotKnock(f"no knock is sent: {error}") from error
                if waited >= _HELD_MOMENT and not said:
                    said = True
                    _log.warn("a knock waits for at most {most} s: {why}", most=round(_HELD_AT_MOST), why=str(error))
            await deferLater(self._clock, _HELD_ASKED)

    def _claimed(self, line: Line, near: Line, offset: int, any_valid: bool) -> tuple[int, int] | None:
        """An unused token of the epoch at *offset*, or of one beside it if *any_valid*: its epoch and ISN.

        *near* is *line* as it was shortly before.
        """
        name, now = line_id(line), self._now()
        epoch, side = epoch_at(now) + offset, nearer_side(now)
        epochs = (epoch, epoch + side, epoch - side) if any_valid else (epoch,)
        while token := unused(near.tokens, epochs, self._memory.used(name), self._memory.start(name)):
            if self._memory.claim(name, *token):
                return token
        return None

    async def _attempt(
        self, bridge: _Bridge, line: Line, to: tuple[str, int], token: tuple[int, int], patience: float,
        opened: Opener[T],
    ) -> T:  # fmt: skip
        isn = token[1]
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                connected = await bridge.rounds.dial(lambda: self._dialer.dial(*to, isn), patience)
            except CannotKnock as error:
                if not tries_left or error.number not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    self._memory.unclaim(line_id(line), *token)
                    raise
            else:
                return await opened(Knocked(connected, isn, token[0], bridge.rounds.hung_up))
        raise AssertionError("the last try returns or raises")

    def _found(self, bridge: _Bridge, offset: int) -> None:
        """The bridge took a token of the epoch at *offset*, after those before it in the round were not taken.

        It takes those of three epochs, and a token that is not taken may have been used by another device, or a RST
        have been forged. So a neighbour's token tells nothing of the clock.
        """
        bridge.rounds.succeed()
        doubtful, suspected = bridge.doubtful, bridge.suspected
        bridge.doubtful = bridge.suspected = 0
        if offset == bridge.offset:
            return
        if suspected and offset == 3 * suspected:
            self._set_offset(bridge, 2 * suspected)
        elif abs(offset) > NEIGHBOURS:
            self._set_offset(bridge, offset)
        else:
            bridge.offset = 0
            self._doubt(bridge, offset, doubtful, suspected)

    def _doubt(self, bridge: _Bridge, neighbour: int, doubtful: int, suspected: int) -> None:
        """The bridge took a *neighbour*'s token and none of this epoch, and what was known before."""
        if not neighbour:
            return
        if suspected:
            _log.info(
                "the bridge took none of this line's tokens for the present 5 minutes, and this clock is not the "
                "reason: another device with the same line has used them up, or somebody on the way refuses knocks; "
                "ask the operator for a line of its own for each device"
            )
        elif neighbour == doubtful and self._clock.seconds() - bridge.proved_at >= SEARCH_AGAIN_AFTER:
            bridge.suspected = neighbour
        else:
            bridge.doubtful = neighbour

    def _set_offset(self, bridge: _Bridge, offset: int) -> None:
        bridge.offset, bridge.clocks_apart = offset, self._apart()
        if minutes := self._minutes_slow(bridge):
            _log.info(
                "this clock is about {minutes} minutes {way}; set it, and knocks need no search",
                minutes=abs(minutes),
                way="slow" if minutes > 0 else "fast",
            )

    def _forget_offset_of_another_clock(self, bridge: _Bridge) -> None:
        if bridge.offset and abs(self._apart() - bridge.clocks_apart) > _CLOCK_SET:
            bridge.offset = bridge.doubtful = bridge.suspected = bridge.rounds.failed = 0

    def _minutes_slow(self, bridge: _Bridge) -> int:
        if not bridge.offset:
            return 0
        seconds = bridge.offset * EPOCH + EPOCH / 2 - self._now() % EPOCH  # the middle of what is possible
        return round(seconds / 60)

    def _apart(self) -> float:
        return self._now() - self._clock.seconds()
