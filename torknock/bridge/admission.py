"""Which ISNs open a connection now, and for which lines (protocol.md §2.3). Pure: dates and lines are arguments.

This is the one place that decides which token opens until when; a gate holds a copy of what it was told, and a ledger
what was used. Its law:

- Nothing opens before the first `update`, nor between `deny` and the next one.
- `update` is the only way in for an epoch, a line, a revocation or an expiry. A line that is not in the last one opens
  nothing from its first step on, also where its tokens have not been struck out yet.
- A token opens once. `spend` keeps it spent, also one that no line derives at that moment.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torknock.bridge.knocks import Judge
from torknock.bridge.tokens import TokenBook
from torknock.keyring.issued import Issued
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.syn import SYN
from torknock.protocol.token import NEIGHBOURS, epoch_at, seconds_valid
from torknock.protocol.wanted import Page, Wanted

LINES_A_TURN = 125
"""After so many lines `update` yields, so that its caller can let others run."""

_STEPS = 12
"""Epochs that a line of version 2 may lag behind: to carry all lines on in each would only make garbage."""

_LATE = 65.0
"""Seconds after its token's last one in which a connection may stand whose SYN came in time.

Linux sends a SYN-ACK for 63 s, and the gate counts whole seconds.
"""


class Admission:
    """The state of a bridge: its epochs, its live lines, what was spent; knocks are *judge*'s."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._book = TokenBook()
        self._live: dict[str, Issued] = {}
        self._epochs = range(0)

    @property
    def live(self) -> Mapping[str, Issued]:
        """The lines of the last `update`, by name, each as far as it was carried on."""
        return self._live

    @property
    def judging(self) -> bool:
        """Whether a SYN without a token may be a knock."""
        return bool(_knocking(self._live))

    @property
    def spent(self) -> set[tuple[int, int]]:
        """What opened a connection and is not forgotten, as (epoch, ISN)."""
        return self._book.spent

    @property
    def possibilities(self) -> int:
        """How many ISNs open a connection now: unspent tokens, and what a knock may look like at this moment."""
        knocks = sum(1 << 16 if line.integrity else 1 for line in _knocking(self._live).values())
        return knocks + self.admitted

    @property
    def admitted(self) -> int:
        """How many tokens the gate is to hold: `possibilities` without those of knocks, which are judged."""
        return sum(len(self._book.unspent(epoch)) for epoch in self._book.epochs)

    def wanted(self, now: float) -> Wanted:
        """What the gate is to admit, at the date *now*."""
        pages = [
            Page(epoch, self._book.edition(epoch), seconds_valid(epoch, now), self._book.unspent(epoch))
            for epoch in self._book.epochs
        ]
        return Wanted(self.judging, tuple(pages))

    def remember(self, spent: Iterable[tuple[int, int]]) -> None:
        """Take *spent*, (epoch, ISN), for spent: to be called before their epochs are entered."""
        self._book.remember_spent(spent)

    def update(
        self, epochs: range, live: Iterable[Issued], knocked: Iterable[tuple[int, int, int]] = ()
    ) -> Iterator[None]:
        """Let *epochs* be valid and the lines be *live*, whatever was before; done when the iterator ends.

        *knocked*, (tag, ISN, TSval), has been admitted by an earlier process.
        """
        before, self._live, self._epochs = self._live, {issued.name: issued for issued in live}, epochs
        self._judge.lines(_knocking(self._live), knocked)
        new = self._book.turn(epochs)
        come = yield from self._compare(before)
        for epoch in epochs:
            for count, name in enumerate(self._live if epoch in new else come, 1):
                self._book.issue(epoch, name, _tokens(self._live[name], epoch))
                if count % LINES_A_TURN == 0:
                    yield
            yield

    def deny(self) -> None:
        """Open nothing until the next `update`; what was spent stays spent."""
        self._book.clear()
        self._judge.lines({})

    def judge(self, syns: Sequence[SYN], steady: float) -> list[bool]:
        """Which of *syns*, that have no token, open a connection, at the monotonic time *steady*."""
        return self._judge.judge(syns, steady)

    def knocked(self, syn: SYN, steady: float) -> tuple[Issued, ...]:
        """The live lines whose knock *syn* was, this once; empty if it was no knock that `judge` admitted."""
        return tuple(self._live[name] for name in self._judge.lines_for(syn, steady) if name in self._live)

    def spend(self, isn: int, now: float) -> tuple[tuple[int, ...], tuple[Issued, ...]]:
        """The epochs in which *isn* is spent from now on, and the live lines that it opens for, this once.

        Each line is what it has become in the epoch of which *isn* is a token. An ISN that no line derives, since its
        line was just revoked or the gate is being filled, is spent in every epoch.
        """
        found, names = self._book.spend(isn)
        spent = found or tuple(self._epochs)
        self._book.remember_spent((epoch, isn) for epoch in spent)
        if not any(epoch <= epoch_at(now) + NEIGHBOURS and seconds_valid(epoch, now) > -_LATE for epoch in found):
            return spent, ()
        lines = [self._live[name] for name in names if name in self._live]
        return spent, tuple(_at(issued, epoch) for issued in lines for epoch in found if isn in _tokens(issued, epoch))

    def _compare(self, before: Mapping[str, Issued]) -> Generator[None, None, list[str]]:
        """Strike out the lines of *before* that live no more, and carry the others on; returns those that are new."""
        come: dict[str, None] = {}
        for count, (name, issued) in enumerate(list(self._live.items()), 1):
            known = before.get(name)
            if known is None or not _is_same(known, issued):
                come[name] = None
            elif known.line.ratchets and known.line.first_epoch > issued.line.first_epoch:
                issued = replace(issued, line=known.line)
            self._live[name] = _carried(issued, self._epochs.start)
            if count % LINES_A_TURN == 0:
                yield
        gone = [name for name in before if name not in self._live or name in come]
        for count, name in enumerate(gone, 1):
            for epoch in self._book.epochs:
                self._book.retire(epoch, name, _tokens(before[name], epoch))
            if count % LINES_A_TURN == 0:
                yield
        return list(come)


def _knocking(live: Mapping[str, Issued]) -> dict[str, Line]:
    return {name: issued.line for name, issued in live.items() if issued.line.scheme is Scheme.KNOCK}


def _tokens(issued: Issued, epoch: int) -> tuple[int, ...]:
    return issued.line.tokens(epoch) if issued.line.scheme is Scheme.TOKEN else ()


def _at(issued: Issued, epoch: int) -> Issued:
    """*issued* with what its line has become in *epoch*."""
    return replace(issued, line=issued.line.forward(epoch)) if issued.line.scheme is Scheme.TOKEN else issued


def _carried(issued: Issued, first: int) -> Issued:
    """*issued*, carried on if it lags far behind the *first* valid epoch; the one before that can still be spent."""
    lags = issued.line.ratchets and issued.line.first_epoch < first - _STEPS
    return _at(issued, first - 1) if lags else issued


def _is_same(one: Issued, other: Issued) -> bool:
    """Whether the lines of *one* and *other* are the same, carried on or not; another line may have its name by now."""
    if one.line.scheme is not Scheme.TOKEN or other.line.scheme is not Scheme.TOKEN or one.line == other.line:
        return one.line == other.line
    epoch = max(one.line.first_epoch, other.line.first_epoch)
    return one.line.forward(epoch) == other.line.forward(epoch)
