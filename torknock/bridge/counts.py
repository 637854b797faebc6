"""What the running bridge counts, and what of it the operator should know. No address comes here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from torknock.bridge.held_tokens import HeldTokens
from torknock.bridge.refusals import MINUTE, Refusals
from torknock.bridge.status_report import FIGURES, GUESSES_A_SECOND, LineInUse, Status, Trouble, Warned, about

_HIT_NEAR = 60 * GUESSES_A_SECOND
"""Where so few random SYNs hit a token, an attacker with many addresses gets in within a minute."""

_REMEMBERED = 3_600.0
"""Seconds for which the operator is warned of a connection without a proof."""


@define(eq=False)
class _Open:
    """A connection that proved itself."""

    name: str
    abort: Callable[[], object]


class Counts:
    """What has happened since the bridge was started, and the connections that proved themselves, by line."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._totals: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._connections: dict[_Open, None] = {}
        self._opened: Counter[str] = Counter()
        self._used: Counter[str] = Counter()

    def count(self, figure: str) -> None:
        """One more of *figure*, a name in `FIGURES`; `KeyError` for any other."""
        if figure not in FIGURES:
            raise KeyError(figure)
        self._totals[figure] += 1
        self._last[figure] = self._clock.seconds()

    def within(self, figure: str, seconds: float) -> bool:
        """Whether *figure* was counted in the last *seconds*."""
        return figure in self._last and self._clock.seconds() - self._last[figure] < seconds

    def opened(self, name: str, abort: Callable[[], object]) -> Callable[[], None]:
        """A connection has proved that it is the line *name*'s; *abort* cuts it.

        Returns what is to be called when it has ended.
        """
        connection = _Open(name, abort)
        self._connections[connection] = None
        self.count("opened")
        self._opened[name] += 1
        self._used[name] += 1

        def closed() -> None:
            self._connections.pop(connection, None)

        return closed

    def cut(self, name: str) -> int:
        """Cut the connections of the line *name*; returns how many there were."""
        found = [connection for connection in self._connections if connection.name == name]
        for connection in found:
            connection.abort()
        return len(found)

    def used(self) -> Mapping[str, int]:
        """How many connections each line has opened since this was last asked."""
        used, self._used = self._used, Counter()
        return dict(used)

    @property
    def totals(self) -> Mapping[str, int]:
        """What was counted, by the names in `FIGURES`; what never was is left out."""
        return dict(self._totals)

    @property
    def in_use(self) -> tuple[LineInUse, ...]:
        """The lines that have a connection, by name."""
        now = Counter(connection.name for connection in self._connections)
        return tuple(LineInUse(name, now[name], self._opened[name]) for name in sorted(now))


class Guarding(Protocol):
    """What a status has from the keeper of the gate."""

    @property
    def tokens(self) -> int:
        """How many ISNs open a connection now."""

    @property
    def admitted(self) -> int:
        """How many tokens the kernel is to hold."""

    @property
    def live(self) -> Collection[str]:
        """The names of the lines that open a connection now."""

    @property
    def trouble(self) -> str:
        """Why the port is closed to everyone; empty while it is not."""

    @property
    def ignored(self) -> str:
        """How many live lines open nothing, and why; empty if there is none."""

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a status says of the bridge that does not change."""

    version: str
    posture: str
    port: int


class Monitor:
    """Makes the status of a bridge, of what *counts* has counted and what the *keeper* says."""

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        counts: Counts,
        keeper: Guarding,
        site_trouble: Callable[[], str] = str,
    ) -> None:
        self._clock, self._identity, self._counts, self._keeper = clock, identity, counts, keeper
        self._site_trouble = site_trouble
        self._since = clock.seconds()
        self._refusals = Refusals(clock, keeper.refused, lambda: keeper.tokens)
        self._held = HeldTokens(clock, keeper.held, lambda: keeper.admitted)
        self._minutely = LoopingCall(self._refusals.end_minute)
        self._minutely.clock = clock

    def start(self) -> None:
        """Look every minute whether too many SYNs were refused."""
        self._since = self._clock.seconds()
        self._minutely.start(MINUTE)

    def stop(self) -> None:
        """Look no more."""
        if self._minutely.running:
            self._minutely.stop()

    async def status(self) -> Status:
        """All of it, now."""
        for answer in (self._refusals.fresh(), self._held.fresh()):  # both are asked before either is waited for
            await answer
        in_use = self._counts.in_use
        now: dict[str, Any] = {
            "uptime": int(self._clock.seconds() - self._since),
            "connections": sum(line.connections for line in in_use),
            "refused": self._refusals.ever,
            "lines": len(self._keeper.live),
            "lines_in_use": len(in_use),
            "tokens": self._keeper.tokens,
            "held": self._held.count,
        }
        return Status(
            version=self._identity.version,
            posture=self._identity.posture,
            port=self._identity.port,
            in_use=in_use,
            warnings=tuple(self._warnings()),
            **{**self._counts.totals, **now},
        )

    def _warnings(self) -> list[Warned]:
        warnings = []
        if trouble := _one_line(self._keeper.trouble):
            warnings.append(Warned(Trouble.CLOSED, f"the port is closed to everyone: {trouble}"))
        if trouble := _one_line(self._site_trouble()):
            warnings.append(Warned(Trouble.SITE, f"connections of channel web fail: {trouble}"))
        if ignored := self._keeper.ignored:
            warnings.append(Warned(Trouble.IGNORED, ignored))
        if missing := self._held.missing:
            text = f"tokens missing in the kernel: {missing:,}; another program may have removed them"
            warnings.append(Warned(Trouble.TOKENS_MISSING, f"{text}; they are put back, see tor's log"))
        if refused := self._refusals.brute_force:
            text = f"possible brute force: {refused:,} SYNs without a valid token in the last minute"
            warnings.append(Warned(Trouble.GUESSING, text))
        if (tokens := self._keeper.tokens) and (syns := 2**32 // tokens) < _HIT_NEAR:
            text = f"{tokens:,} tokens are live, and {syns:,} random SYNs hit one: {about(syns / GUESSES_A_SECOND)}"
            text = f"{text} for {GUESSES_A_SECOND:,} a second; revoke lines, or make them with a smaller --n"
            warnings.append(Warned(Trouble.HIT_NEAR, text))
        if self._counts.within("given_nothing", _REMEMBERED):
            count = self._counts.totals["given_nothing"]
            text = f"{count:,} connections with a valid token but no valid proof, the last within the hour"
            warnings.append(Warned(Trouble.GIVEN_NOTHING, f"{text}; clients may have been intercepted"))
        return warnings


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
