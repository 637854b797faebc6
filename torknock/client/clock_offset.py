"""How far one bridge's clock is from this host's, as its answers to tokens tell (protocol.md §2.4)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torknock.client.attempts import nearer_side, offsets, proving
from torknock.client.rounds import SEARCH_AGAIN_AFTER
from torknock.protocol.token import EPOCH, NEIGHBOURS, epoch_at

_log = Logger()

_CLOCK_SET = EPOCH / 2
"""Seconds by which wall time must jump, because the clock was set, for a known offset to be given up."""


class ClockOffset:
    """What is known of one bridge's clock, for the life of the process.

    *clock* is the reactor's, *now* tells the date.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._clock, self._now = clock, now
        self._offset = 0  # the epoch whose tokens the bridge takes, less ours, as far as is known
        self._doubtful = 0  # a neighbour whose token it took once, after this epoch's was not: a wrong clock, or not
        self._suspected = 0  # the same, where it did so twice: the next round finds out which it is
        self._proved_at = float("-inf")  # when a round did so last, by the reactor's time
        self._clocks_apart = 0.0  # wall time less the reactor's when the offset was found: changes if the clock is set

    def forget_after_step(self) -> bool:
        """Forget the offset if the wall clock was set since it was found; whether it was."""
        stepped = bool(self._offset) and abs(self._apart() - self._clocks_apart) > _CLOCK_SET
        if stepped:
            self._offset = self._doubtful = self._suspected = 0
        return stepped

    def offsets(self, failed_rounds: int, first_epoch: int) -> tuple[int, ...]:
        """The epochs whose tokens the next round tries, as offsets from this clock's (`attempts.offsets`).

        *first_epoch* is the line's: where it is in the future, this clock is slow.
        """
        epoch = epoch_at(self._now())
        if epoch + self._offset < first_epoch:
            self._set(first_epoch + NEIGHBOURS - epoch)
        if self._suspected and not failed_rounds:
            self._proved_at = self._clock.seconds()
            return proving(self._suspected)
        return offsets(failed_rounds, self._offset, nearer_side(self._now()))

    def accepted(self, offset: int) -> None:
        """The bridge took a token of the epoch at *offset*, after those before it in the round were not taken.

        It takes those of three epochs, and a token that is not taken may have been used by another device, or a RST
        have been forged. So a neighbour's token tells nothing of the clock.
        """
        doubtful, suspected = self._doubtful, self._suspected
        self._doubtful = self._suspected = 0
        if offset == self._offset:
            return
        if suspected and offset == 3 * suspected:
            self._set(2 * suspected)
        elif abs(offset) > NEIGHBOURS:
            self._set(offset)
        else:
            self._offset = 0
            self._doubt(offset, doubtful, suspected)

    def minutes_slow(self) -> int:
        """By about how many minutes this clock is behind the bridge's; negative if it is ahead, 0 if nothing is known.

        Small differences, which do no harm, are 0 too.
        """
        if not self._offset:
            return 0
        seconds = self._offset * EPOCH + EPOCH / 2 - self._now() % EPOCH  # the middle of what is possible
        return round(seconds / 60)

    def _doubt(self, neighbour: int, doubtful: int, suspected: int) -> None:
        """The bridge took a *neighbour*'s token and none of this epoch; the rest is what was known before."""
        if not neighbour:
            return
        if suspected:
            _log.info(
                "the bridge accepted none of this line's tokens for the present 5 minutes, and this clock is not the "
                "reason: another device with the same line has used them up, or a network on the way refuses knocks; "
                "ask the operator for a line of its own for each device"
            )
        elif neighbour == doubtful and self._clock.seconds() - self._proved_at >= SEARCH_AGAIN_AFTER:
            self._suspected = neighbour
        else:
            self._doubtful = neighbour

    def _set(self, offset: int) -> None:
        self._offset, self._clocks_apart = offset, self._apart()
        if minutes := self.minutes_slow():
            _log.info(
                "this clock is about {minutes} minutes {way}; set it, and knocks need no search",
                minutes=abs(minutes),
                way="slow" if minutes > 0 else "fast",
            )

    def _apart(self) -> float:
        return self._now() - self._clock.seconds()
