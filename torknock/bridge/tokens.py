"""Which ISN opens for which lines, epoch by epoch, and which has done so (protocol.md §2.3). Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from attrs import define, field


@define
class TokenBook:
    """The tokens of all live lines in the epochs that count now. A line is known here by its name."""

    _holders: dict[int, dict[int, tuple[str, ...]]] = field(factory=dict, init=False)
    """epoch -> unspent ISN -> the lines that derive it; nearly always one."""
    _late: dict[int, dict[int, tuple[str, ...]]] = field(factory=dict, init=False)
    """The same of the epoch that was forgotten last: a SYN that came in time may become a connection after that."""
    _spent: dict[int, set[int]] = field(factory=dict, init=False)
    """epoch -> ISN that opened a connection."""
    _editions: dict[int, int] = field(factory=dict, init=False)
    _changes: int = field(default=0, init=False)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs that are written here, oldest first."""
        return tuple(sorted(self._holders))

    def edition(self, epoch: int) -> int:
        """A number that was never told before for *epoch* if a token was issued or retired in it since."""
        return self._editions.get(epoch, 0)

    def turn(self, epochs: range) -> list[int]:
        """Have a page for each of *epochs* and for no other; returns those whose page is new, and empty.

        The page of the epoch before the first of them can still be spent from; what was spent earlier is forgotten.
        """
        self._late = {epoch: page for epoch, page in (self._late | self._holders).items() if epoch == epochs.start - 1}
        self._holders = {epoch: page for epoch, page in self._holders.items() if epoch in epochs}
        self._spent = {epoch: isns for epoch, isns in self._spent.items() if epoch >= epochs.start - 1}
        self._editions = {epoch: edition for epoch, edition in self._editions.items() if epoch in epochs}
        new = [epoch for epoch in epochs if epoch not in self._holders]
        for epoch in new:
            self._holders[epoch] = {}
            self._change(epoch)
        return new

    def issue(self, epoch: int, name: str, isns: Iterable[int]) -> None:
        """Write down that the line *name* derives *isns* in *epoch*; those that are spent stay so."""
        holders = self._holders.setdefault(epoch, {})
        spent = self._spent.get(epoch, ())
        alone = (name,)  # one for all of them: so many tuples would have the garbage collector run all the time
        for isn in isns:
            if isn not in spent:
                holders[isn] = (*holders[isn], name) if isn in holders else alone
        self._change(epoch)

    def retire(self, epoch: int, name: str, isns: Iterable[int]) -> None:
        """Strike the line *name*'s *isns* of *epoch* out."""
        holders = self._holders.get(epoch, {})
        for isn in isns:
            left = tuple(other for other in holders.get(isn, ()) if other != name)
            if left:
                holders[isn] = left
            else:
                holders.pop(isn, None)
        self._change(epoch)

    def spend(self, isn: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The epochs and the lines that *isn* opens for, this once; empty if it is of no line, or spent."""
        pages = self._late | self._holders
        epochs = tuple(epoch for epoch in sorted(pages) if isn in pages[epoch])
        names: dict[str, None] = {}
        for epoch in epochs:
            names.update(dict.fromkeys(pages[epoch].pop(isn)))
            self._spent.setdefault(epoch, set()).add(isn)
        return epochs, tuple(names)

    def remember_spent(self, tokens: Iterable[tuple[int, int]]) -> None:
        """Take *tokens*, (epoch, ISN), for spent from now on: to be called before they are issued."""
        for epoch, isn in tokens:
            self._spent.setdefault(epoch, set()).add(isn)

    @property
    def spent(self) -> set[tuple[int, int]]:
        """What opened a connection, as (epoch, ISN)."""
        return {(epoch, isn) for epoch, isns in self._spent.items() for isn in isns}

    def unspent(self, epoch: int) -> Collection[int]:
        """The ISNs that still open a connection in *epoch*."""
        return self._holders.get(epoch, {}).keys()

    def clear(self) -> None:
        """Let no line derive anything; what was spent stays spent."""
        self._holders.clear()
        self._late.clear()
        self._editions.clear()

    def _change(self, epoch: int) -> None:
        self._changes += 1
        self._editions[epoch] = self._changes
