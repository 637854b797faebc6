"""The date by which tokens are valid: the wall clock's, unless the wall clock was stepped a moment ago. Pure.

An attacker who can set a host's clock, for example by forged NTP, could otherwise have a bridge
serve the epochs of another day and forget the present ones, with a step of a few seconds. So a step is believed once
it has lasted for `HELD`; until then the date goes on as a steady clock goes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from torknock.errors import TorknockError
from torknock.protocol.token import EPOCH, NEIGHBOURS

STEP = 5.0
"""Seconds by which the wall clock must leave the steady one to have been stepped; less is a clock that is slewed."""

HELD = 60.0
"""Seconds for which a step must last to be believed."""

SETTLED = 120.0
"""Seconds after boot in which NTP sets a clock that no battery kept; later a clock is believed as it is."""

_LAST_TIME = 253_402_300_799
"""The last second of the year 9999: later ones cannot be written as dates."""


class ClockUnsure(TorknockError):
    """The host has just been started, and its clock may be that of another day: its date must not be served."""

    def __init__(self) -> None:
        super().__init__(
            f"the host was started less than {SETTLED:.0f} s ago, and NTP has not set its clock yet, which may be wrong"
        )


def assert_sure(uptime: float, synchronized: bool) -> None:
    """Raise `ClockUnsure` if a clock that NTP has set, or has not, may be wrong *uptime* seconds after the start."""
    if uptime < SETTLED and not synchronized:
        raise ClockUnsure


class ClockBehind(TorknockError):
    """The date is before epochs that were served, *highest* the last of them: what was spent since might open again.

    *path* is the file that says so.
    """

    def __init__(self, highest: int, path: Path) -> None:
        until, served = (
            datetime.fromtimestamp(min(epoch * EPOCH, _LAST_TIME), UTC).strftime("%Y-%m-%d %H:%M UTC")
            for epoch in (highest - 2 * NEIGHBOURS, highest)
        )
        super().__init__(
            f"the clock is behind: tokens of {served} were let in before, and to let in earlier ones could let replays "
            f"in, so no token opens before {until}",
            "set the clock if it is wrong; if it is right and was ahead then, "
            f"wait, or stop tor, remove {path}, revoke all lines, issue new ones, and start tor",
        )
        self.highest = highest


class Calendar:
    """Tells the date by *wall*, seconds since 1970, and *steady*, seconds that go on while the host is suspended.

    *stepped* is called with the seconds of each step when it is first seen. `now` is to be called about every second.
    """

    def __init__(
        self,
        wall: Callable[[], float],
        steady: Callable[[], float],
        stepped: Callable[[float], object] = lambda by: None,
    ) -> None:
        self._wall, self._steady, self._stepped = wall, steady, stepped
        self._ahead = wall() - steady()
        self._doubted: tuple[float, float] | None = None
        """By how much the wall clock is ahead of the steady one since its step, and the steady time of that step."""

    def now(self) -> float:
        """The date, in seconds since 1970."""
        steady = self._steady()
        ahead = self._wall() - steady
        if abs(ahead - self._ahead) <= STEP:
            self._ahead, self._doubted = ahead, None
        elif self._doubted is None or abs(ahead - self._doubted[0]) > STEP:
            self._doubted = ahead, steady
            self._stepped(ahead - self._ahead)
        elif steady - self._doubted[1] >= HELD:
            self._ahead, self._doubted = ahead, None
        return steady + self._ahead
