"""Keeps a gate as `Admission` wants it, by the keyring, the calendar and the disk.

Its law. What happens is one step, every half second, and one at a time; the first is `start`:

1. Look: a ledger that refused a record, tor that takes no clients and a keyring that cannot be read end the step.
2. Update: if the epoch, the lines or their expiry have changed, the ledger enters the epoch, and admission follows.
3. Apply: once there is room on the disk for every token that may be used, the gate is told what is wanted.

A step that fails closes the port to everyone: admission denies, the gate closes, and the next step begins with
everything again. First start, new epoch, new line, revocation, a lost gate and a clock that was set are the same step.

SYNs and connections come to `Spending` at any moment, also while a step waits, and after the last one. What may never
happen: two steps at a time; the gate admits what admission does not; a token is admitted that the disk has no room for.
`stop` ends the steps and closes the gate; `Spending` serves what the gate admitted until then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from torknock.bridge.calendar import ClockBehind
from torknock.bridge.closed_reason import ClosedReason, unexpected
from torknock.bridge.known_lines import KnownLines
from torknock.bridge.spending import Spending
from torknock.errors import TorknockError
from torknock.interfaces import IGate
from torknock.kernel.generations import take_for_old
from torknock.protocol.bridge_line import Scheme
from torknock.protocol.token import NEIGHBOURS, epoch_at

_TICK = 0.5
"""Seconds from one step to the next."""

_BACKOFF_AT_MOST = 30.0
"""Seconds between two steps, at most, while an unexpected error goes on, such as a lack of descriptors."""


class Keeper:
    """Keeps *gate*, which asks `Spending.judge`, and *spending*'s admission in step with *lines* and the date.

    *refusing* returns why a client that is admitted could not be served, None if it could: until then the gate is
    closed.
    """

    def __init__(
        self,
        lines: KnownLines,
        spending: Spending,
        gate: IGate,
        refusing: Callable[[], TorknockError | None] = lambda: None,
    ) -> None:
        self._lines, self._gate, self._refusing = lines, gate, refusing
        self._spending, self._admission, self._books = spending, spending.admission, spending.books
        self._epoch: int | None = None
        """The epoch that was entered; None if all is to be read again."""
        self._date = spending.now()
        """What the calendar told at the last step."""
        self._reason = ClosedReason()
        self._running: Deferred[None] | None = None

    async def start(self) -> None:
        """Open the gate and fill it; from now on it is kept so. Raises what `Keyring` and `IGate` raise."""
        await self._lines.first()
        try:
            await self._bring(self._spending.now())
        except BaseException:
            self._forget()
            raise
        self._running = Deferred.fromCoroutine(self._keep())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))

    async def stop(self) -> None:
        """Close the gate. Connections that came through it stay; the ledgers are left to the caller to close."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
        self._lines.stop()
        await self._gate.close()

    @property
    def trouble(self) -> str:
        """Why the port is closed to everyone; empty while it is not."""
        return str(self._reason)

    @property
    def ignored(self) -> str:
        """How many lines open nothing here although they live, and why; empty if there is none."""
        return self._lines.ignored(self._spending.now())

    @property
    def live(self) -> Collection[str]:
        """The names of the lines that open a connection now."""
        return self._admission.live.keys()

    @property
    def tokens(self) -> int:
        """How many ISNs open a connection now: unspent tokens, and what a knock may look like at this moment."""
        return self._admission.possibilities

    @property
    def admitted(self) -> int:
        """See `Admission.admitted`."""
        return self._admission.admitted

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""
        return self._gate.refused()

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""
        return self._gate.held()

    async def _keep(self) -> None:
        pause = _TICK
        while True:
            await deferLater(self._spending.clock, pause)
            try:
                await self._step()
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  a loop that ends leaves the port closed until the next restart
                known = isinstance(error, TorknockError)
                pause = _TICK if known else min(2 * pause, _BACKOFF_AT_MOST)
                await self._close_for(error if known else unexpected(error))
            else:
                self._reason.opened()
                pause = _TICK

    async def _step(self) -> None:
        self._books.check()
        if (refusing := self._refusing()) is not None:
            raise refusing
        now = self._spending.now()
        if now < self._date or self._reason.is_error:
            self._lines.read_again()  # a line that had expired may live again
        self._date = now
        await self._lines.look()
        await self._bring(now)

    async def _bring(self, now: float) -> None:
        """Update and apply."""
        changed = await self._update(now)
        wanted = self._admission.wanted(self._spending.now())
        self._books.tokens.reserve(sum(len(page.tokens) for page in wanted.pages))
        await self._gate.apply(wanted)
        if changed:
            take_for_old()

    async def _update(self, now: float) -> bool:
        """Have admission follow the date *now* and the lines, if either has changed anything; whether it has."""
        epoch, known, news = epoch_at(now), self._admission.live.values(), self._lines.news(now)
        live = [issued for issued in known if issued.is_live(now)] if news is None else news
        if news is None and epoch == self._epoch and len(live) == len(known):
            return False
        judging, knocked = any(issued.line.scheme is Scheme.KNOCK for issued in live), set[tuple[int, int, int]]()
        if self._epoch is None or judging != self._admission.judging:
            knocked = self._books.knocked(self._lines.tags, judging)
        if epoch != self._epoch:
            self._enter(epoch)
        for _ in self._admission.update(self._valid(epoch), live, knocked):
            await deferLater(self._spending.clock, 0)
        self._lines.taken()
        return True

    def _enter(self, epoch: int) -> None:
        """Let *epoch* be the present one, for ever, and forget what cannot come back."""
        tokens = self._books.tokens
        self._admission.remember(tokens.enter(epoch, self._admission.spent))
        self._epoch = epoch
        self._reason.clock_behind("" if self._valid(epoch) else str(ClockBehind(tokens.highest, tokens.path)))

    def _valid(self, epoch: int) -> range:
        """The epochs whose tokens are valid in *epoch*: it and its neighbours, but none that was left behind."""
        return range(max(epoch - NEIGHBOURS, self._books.tokens.floor), epoch + NEIGHBOURS + 1)

    def _forget(self) -> None:
        """Open nothing, and read everything again in the next step: another process may have had the door."""
        self._admission.deny()
        self._epoch = None

    async def _close_for(self, error: Exception) -> None:
        self._reason.closed(error)
        self._forget()
        try:
            await self._gate.close()
        except CancelledError:
            raise
        except Exception as worse:  # noqa: BLE001  as in `_keep`
            self._reason.cannot_close(worse)
