"""Keeps a gate and its judge in step with the keyring and the calendar.

Tokens by epoch, lines that come and go, repairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from torknock.bridge.calendar import ClockBehind
from torknock.bridge.knocks import Judge, tag
from torknock.bridge.ledger import GroupSync, SpentKnocks, SpentTokens, SpentUnusable
from torknock.bridge.tokens import TokenBook
from torknock.errors import TorknockError
from torknock.interfaces import IGate
from torknock.keyring.file import KeyringLocked, KeyringUnreadable
from torknock.keyring.lines import Issued, News
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.syn import SYN, Ask
from torknock.protocol.token import EPOCH, NEIGHBOURS, epoch_at, seconds_valid

_log = Logger()

_TICK = 0.5
"""How often the keyring, the calendar and the gate are looked at."""

_BACKOFF_AT_MOST = 30.0
"""Seconds between two attempts, at most, while an error goes on that nobody foresaw, such as a lack of descriptors."""

_JUMP = 5.0
"""A wall clock that runs away from the steady one by more than this was set."""

_KNOCKS_RESERVED = 1_024
"""Knocks that the disk has room for before a line of scheme `knock` is judged by."""

_STEPS = 12
"""Epochs that a line of version 2 may lag behind: to carry all lines on in each would only make garbage."""

_LATE = 65.0
"""Seconds after its token's last one in which a connection may stand whose SYN came in time.

Linux sends a SYN-ACK for 63 s, and the gate counts whole seconds.
"""

_LINES_A_TURN = 125
"""So many lines' tokens are derived before the reactor gets its turn."""


class Refresh:
    """Admits what is valid now and withdraws what is not, from `start` to `stop`.

    *gate* makes the gate, given whom it asks about SYNs without a token. *spent* and *knocks* remember across a new
    start what was used; *in_thread* runs what waits for the disk. *clock* times the waits and *now* tells the date, a
    `Calendar`'s: when it jumps, the gate is filled anew. *changed* is called with all lines when one of them was
    changed. *no_knocks* says why lines of scheme `knock` are ignored, and is empty if they are served. *refusing* tells
    why who is let in could not be served, None if they can: the gate is closed meanwhile.

    While another program holds the keyring, or its disk does not answer, the lines that were read last are served.
    """

    def __init__(
        self,
        keyring: KeyringQueue,
        spent: SpentTokens,
        knocks: SpentKnocks,
        gate: Callable[[Ask], IGate],
        clock: IReactorTime,
        now: Callable[[], float],
        changed: Callable[[Collection[Issued]], None] = lambda lines: None,
        no_knocks: str = "",
        in_thread: Callable[..., Deferred[None]] = execute,
        refusing: Callable[[], TorknockError | None] = lambda: None,
    ) -> None:
        self._keyring = keyring
        self._spent = spent
        self._syncs = GroupSync(spent, in_thread)
        self._knocks = knocks
        self._gate = gate(self.judge)
        self._clock = clock
        self._now = now
        self._changed = changed
        self._no_knocks = no_knocks
        self._refusing = refusing
        self._ignored: list[Issued] = []
        self._book = TokenBook()
        self._judge = Judge(remember=knocks.add, warn=lambda told: _log.warn("{told}", told=told))
        self._unusable: SpentUnusable | None = None
        self._live: dict[str, Issued] = {}
        self._revoked: frozenset[tuple[str, int]] = frozenset()
        """Names, and when they were issued, of the lines that were revoked when they were read last."""
        self._knocked: Collection[int] = ()
        """The tags of the lines of scheme `knock` then, but of those that were erased."""
        self._changes: int | None = None
        self._reading: Deferred[News | None] | None = None
        self._unread: KeyringUnreadable | None = None
        """Why the keyring could not be read when it was last tried, if that was not a lock."""
        self._epoch = 0
        self._ahead = 0.0
        self._trouble = ""
        self._left_open = ""
        self._behind = ""
        self._running: Deferred[None] | None = None

    async def start(self) -> None:
        """Open the gate and fill it; from now on it is kept so. Raises what `Keyring` and `IGate` raise."""
        await self._fill(await self._keyring.run(self._keyring.keyring.news, None))
        self._running = Deferred.fromCoroutine(self._keep())
        self._running.addErrback(lambda failure: failure.trap(CancelledError))

    async def stop(self) -> None:
        """Close the gate. Connections that came through it live on.

        What it let in last is spent by `whose` as ever, so the files of what was spent stay open.
        """
        if self._running is not None:
            self._running.cancel()
            self._running = None
        if self._reading is not None:
            self._reading.addErrback(lambda failure: None)
            self._reading = None
        await self._gate.close()

    @property
    def trouble(self) -> str:
        """Why the port is closed to everyone; empty while it is not."""
        return self._trouble or self._behind

    @property
    def ignored(self) -> str:
        """How many lines open nothing here although they live, and why; empty if there is none."""
        count = sum(issued.lives(self._now()) for issued in self._ignored)
        if not count:
            return ""
        lines = "1 line of scheme knock opens" if count == 1 else f"{count} lines of scheme knock open"
        return f"{lines} nothing: {self._no_knocks}"

    @property
    def live(self) -> Collection[str]:
        """The names of the lines that open a connection now."""
        return self._live.keys()

    @property
    def tokens(self) -> int:
        """How many ISNs open a connection now: unspent tokens, and what a knock may look like at this moment."""
        knocks = sum(1 << 16 if line.integrity else 1 for line in _knocking(self._live).values())
        return knocks + sum(len(self._book.unspent(epoch)) for epoch in self._book.epochs)

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""
        return self._gate.refused()

    def judge(self, syns: Sequence[SYN]) -> Sequence[bool]:
        """Which of *syns*, that have no token, open a connection. Those that do are on the disk already."""
        try:
            answers = self._judge.judge(syns, self._clock.seconds())
            if any(answers):
                self._knocks.sync(self._knocks.handle())
            return answers
        except SpentUnusable as error:
            self._unusable = error
            return [False] * len(syns)

    async def whose(self, syn: SYN) -> tuple[Issued, ...]:
        """The live lines that *syn* has opened a connection for, this once; empty if there is none.

        What it spends is on the disk by then.
        """
        knocked = self._judge.whose(syn, self._clock.seconds())
        lines = tuple(self._live[name] for name in knocked if name in self._live) or self.spend(syn.isn)
        if lines:
            try:
                await self._syncs.synced()
            except SpentUnusable as error:
                self._unusable = error
                return ()
        return tuple(issued for issued in lines if issued.name in self._live)

    def spend(self, isn: int) -> tuple[Issued, ...]:
        """The live lines that *isn* opens a connection for, this once; empty if there is none, or it cannot be kept.

        Each is what it has become in the epoch of which *isn* is a token.

        An ISN that no line derives now, since the gate is being filled or a line was revoked, is spent all the same.
        """
        epochs, names = self._book.spend(isn)
        now = self._now()
        valid = [each for each in epochs if each <= epoch_at(now) + NEIGHBOURS and seconds_valid(each, now) > -_LATE]
        try:
            for epoch in epochs or self._epochs:
                self._book.remember_spent([(epoch, isn)])
                self._spent.add(epoch, isn)
        except SpentUnusable as error:
            self._unusable = error
            return ()
        if not valid:
            return ()
        lines = [self._live[name] for name in names if name in self._live]
        return tuple(_at(issued, epoch) for issued in lines for epoch in epochs if isn in issued.line.tokens(epoch))

    async def _keep(self) -> None:
        pause = _TICK
        while True:
            await deferLater(self._clock, pause)
            try:
                await self._step()
            except CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  a loop that ends leaves the port closed until the next restart
                known = isinstance(error, TorknockError)
                pause = _TICK if known else min(2 * pause, _BACKOFF_AT_MOST)
                await self._close_for(error if known else _unexpected(error))
            else:
                if self._trouble:
                    _log.warn("port open again: what had closed it is mended")
                self._trouble, self._left_open, pause = "", "", _TICK

    async def _step(self) -> None:
        if self._unusable is not None:
            unusable, self._unusable = self._unusable, None
            raise unusable
        if (refusing := self._refusing()) is not None:
            raise refusing
        now = self._now()
        epoch = epoch_at(now)
        set_by = now - self._clock.seconds() - self._ahead
        if self._trouble or abs(set_by) > _JUMP or not self._epoch <= epoch <= self._epoch + 1:
            await self._fill_again()
            return
        if not await self._gate.intact():
            _log.warn("the gate was lost: its service ended, or a program changed nftables; it is made anew")
            await self._fill_again()
            return
        if epoch == self._epoch + 1:
            self._enter(epoch)
            come = [each for each in self._epochs if each == epoch + NEIGHBOURS]
            await self._derive(self._live, come)
            await self._admit(come)
        await self._follow(now)

    async def _follow(self, now: float) -> None:
        """Take up the lines that are new, and drop those that were revoked or have expired."""
        before, news = self._live, await self._news()
        if news is not None:
            self._take(news, now)
        elif all(issued.lives(now) for issued in self._live.values()):
            return
        else:
            self._live = {name: issued for name, issued in self._live.items() if issued.lives(now)}
        if bool(_knocking(before)) != bool(_knocking(self._live)):
            await self._fill(None)
            return
        self._judge.lines(_knocking(self._live))
        stay = {name for name, issued in self._live.items() if name in before and _is_same(before[name], issued)}
        gone = [name for name in before if name not in stay]
        come = [name for name in self._live if name not in stay]
        if gone:
            nobodys: list[int] = []
            for name in gone:
                for epoch in self._epochs:
                    nobodys += self._book.retire(epoch, name, self._tokens(before[name], epoch))
            await self._gate.withdraw(nobodys)
        if come:
            for epoch in self._epochs:
                known = set(self._book.unspent(epoch))
                await self._derive(come, [epoch])
                await self._admit_tokens(epoch, set(self._book.unspent(epoch)) - known)

    async def _news(self) -> News | None:
        """What is new in the keyring, as far as it has answered; None also while it is locked.

        Raises `KeyringUnreadable` from when it could not be read to when it could.
        """
        if self._reading is None:
            self._reading = self._keyring.run(self._keyring.keyring.news, self._changes)
        if self._reading.called:
            reading, self._reading = self._reading, None
            try:
                news = await reading
            except KeyringLocked:
                pass
            except KeyringUnreadable as error:
                self._unread = error
            else:
                self._unread = None
                return news
        if self._unread is not None:
            raise self._unread
        return None

    def _take(self, news: News, now: float) -> None:
        """Let the lines be those that were read."""
        revoked = frozenset((each.name, each.created) for each in news.lines if each.revoked is not None)
        back = {(each.name, each.created) for each in news.lines} & self._revoked - revoked
        if back:
            _log.warn(
                "an older keyring was put in place: lines that were revoked open again; revoke them again with "
                "torknock line revoke: {names}",
                names=", ".join(sorted(name for name, _ in back)),
            )
        self._revoked, self._changes = revoked, news.changes
        self._knocked = {tag(each.line) for each in news.lines if each.line.scheme is Scheme.KNOCK and not each.erased}
        self._live = {issued.name: issued for issued in self._served(news.lines, now)}
        self._changed(news.lines)

    async def _fill_again(self) -> None:
        self._changes = None  # what cannot be read at this moment is read later, whole
        await self._fill(await self._news())

    async def _fill(self, news: News | None) -> None:
        """Open the gate anew, with exactly what is valid now: of *news*, or of what is known where there is none."""
        now = self._now()
        self._ahead = now - self._clock.seconds()
        self._enter(epoch_at(now))
        epochs = self._epochs
        if news is not None:
            self._take(news, now)
        self._live = {name: issued for name, issued in self._live.items() if issued.lives(now)}
        knocking = _knocking(self._live)
        self._judge.lines(knocking, self._knocks.read(self._knocked))
        self._knocks.reserve(_KNOCKS_RESERVED if knocking else 0)
        await self._gate.open(bool(knocking))
        self._book.clear()  # until now what the old gate let in was served
        await self._derive(self._live, epochs)
        await self._admit(epochs)

    def _served(self, lines: Iterable[Issued], now: float) -> list[Issued]:
        """Those of *lines* that open a connection here now; that other live ones do not is logged."""
        live, before = [issued for issued in lines if issued.lives(now)], len(self._ignored)
        if not self._no_knocks:
            return live
        self._ignored = [issued for issued in live if issued.line.scheme is Scheme.KNOCK]
        if len(self._ignored) > before:
            _log.warn("{told}", told=self.ignored)
        return [issued for issued in live if issued.line.scheme is not Scheme.KNOCK]

    def _enter(self, epoch: int) -> None:
        """Let *epoch* be the present one, for ever, and forget what cannot come back."""
        self._epoch = epoch
        spent = self._spent.enter(epoch, self._book.spent)
        self._book.forget(self._spent.floor)
        self._book.remember_spent(spent)
        behind = "" if self._epochs else str(ClockBehind(self._spent.highest, self._spent.path))
        if behind and behind != self._behind:
            _log.error("port closed: {reason}", reason=behind)
        elif self._behind and not behind:
            _log.warn("port open again: the clock is no longer behind")
        self._behind = behind

    @property
    def _epochs(self) -> range:
        """The epochs whose tokens are valid now: the present one and its neighbours, but none that was left behind."""
        return range(max(self._epoch - NEIGHBOURS, self._spent.floor), self._epoch + NEIGHBOURS + 1)

    async def _derive(self, names: Collection[str], epochs: Iterable[int]) -> None:
        waiting = list(names)
        for epoch in epochs:
            for start in range(0, len(waiting), _LINES_A_TURN):
                for name in waiting[start : start + _LINES_A_TURN]:
                    if name in self._live:
                        if _lags(self._live[name].line, self._epochs[0]):
                            self._live[name] = _at(self._live[name], self._epochs[0] - 1)  # for who comes late
                        self._book.issue(epoch, name, self._tokens(self._live[name], epoch))
                await deferLater(self._clock, 0)

    def _tokens(self, issued: Issued, epoch: int) -> tuple[int, ...]:
        return issued.line.tokens(epoch) if issued.line.scheme is Scheme.TOKEN else ()

    async def _admit(self, epochs: Iterable[int]) -> None:
        for epoch in epochs:
            await self._admit_tokens(epoch, self._book.unspent(epoch))

    async def _admit_tokens(self, epoch: int, tokens: Collection[int]) -> None:
        left = math.ceil(seconds_valid(epoch, self._now()))  # whole seconds, and the last one is whole, too
        if tokens and left > 0:
            self._spent.reserve(sum(len(self._book.unspent(each)) for each in self._book.epochs))
            await self._gate.admit(tokens, left)

    async def _close_for(self, error: Exception) -> None:
        if str(error) != self._trouble:
            _log.error("port closed: {reason}. It reopens by itself once this is fixed", reason=str(error))
        self._trouble = str(error)
        self._deny()
        try:
            await self._gate.close()
        except CancelledError:
            raise
        except Exception as worse:  # noqa: BLE001  as in `_keep`
            if str(worse) != self._left_open:
                _log.error("{reason}; the tokens run out within {seconds} s", reason=str(worse), seconds=2 * EPOCH)
            self._left_open = str(worse)

    def _deny(self) -> None:
        self._book.clear()
        self._judge.lines({})


def _knocking(live: Mapping[str, Issued]) -> dict[str, Line]:
    return {name: issued.line for name, issued in live.items() if issued.line.scheme is Scheme.KNOCK}


def _at(issued: Issued, epoch: int) -> Issued:
    """*issued* with what its line has become in *epoch*."""
    return replace(issued, line=issued.line.forward(epoch)) if issued.line.scheme is Scheme.TOKEN else issued


def _is_same(one: Issued, other: Issued) -> bool:
    """Whether the lines of *one* and *other* are the same, carried on or not; another may bear its name by now."""
    if one.line.scheme is not Scheme.TOKEN or other.line.scheme is not Scheme.TOKEN:
        return one.line == other.line
    epoch = max(one.line.first_epoch, other.line.first_epoch)
    return one.line.forward(epoch) == other.line.forward(epoch)


def _lags(line: Line, epoch: int) -> bool:
    return line.ratchets and line.first_epoch < epoch - _STEPS


def _unexpected(error: Exception) -> TorknockError:
    """What is said of an error that nobody foresaw."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return TorknockError(f"{type(error).__name__}: {reason}")
