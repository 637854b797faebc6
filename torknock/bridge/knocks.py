"""Whose knock a SYN is (knock.md), and that it is so once. Pure: the time is an argument.

A knock says no date: an attacker who saw a SYN can send it again, with the same TSval, while the line is live. So
what opened a connection is remembered for as long as its line's secret is in use, on disk too, and that is bounded by
`KNOCKS_AT_MOST` a secret: after so many the line is closed to everyone, and its holder needs another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import define, field

from torknock.protocol.bridge_line import Line
from torknock.protocol.knock import Authenticators
from torknock.protocol.syn import SYN

KNOCKS_AT_MOST = 262_144
"""Connections that one secret opens in its life: 4 MiB on disk, and about 25 MiB here."""

_HANDSHAKE = 130.0
"""Seconds within which a SYN that was admitted becomes a connection: so long Linux repeats its SYN-ACK, and waits."""


def tag(line: Line) -> int:
    """What stands for *line*'s secret where its knocks are remembered: 64 bits, the same for lines that share it."""
    return int.from_bytes(hashlib.sha256(b"torknock/1 knock\0" + line.secret).digest()[:8])


@define
class Judge:
    """Admits each knock of a live line once."""

    remember: Callable[[int, int, int], None]
    """Called with (tag, ISN, TSval) before a SYN is admitted; if it raises, no SYN is."""
    warn: Callable[[str], None]
    """Called with what the operator should know, once."""
    _names: tuple[str, ...] = field(default=(), init=False)
    _tags: tuple[int, ...] = field(default=(), init=False)
    _authenticators: Authenticators = field(factory=lambda: Authenticators([]), init=False)
    _seen: dict[int, set[int]] = field(factory=dict, init=False)
    """tag -> ISN and TSval, as one number of 64 bits."""
    _admitted: dict[SYN, tuple[float, tuple[str, ...]]] = field(factory=dict, init=False)
    """SYN -> until when its connection is waited for, and whose it is; oldest first."""
    _full: set[int] = field(factory=set, init=False)

    def lines(self, live: Mapping[str, Line], seen: Iterable[tuple[int, int, int]] = ()) -> None:
        """Judge by the *live* lines from now on, and take *seen*, (tag, ISN, TSval), for seen."""
        self._names = tuple(live)
        self._tags = tuple(tag(line) for line in live.values())
        self._authenticators = Authenticators([(line.secret, line.integrity) for line in live.values()])
        for whose, isn, tsval in seen:
            self._seen.setdefault(whose, set()).add(isn << 32 | tsval)

    def judge(self, syns: Sequence[SYN], now: float) -> list[bool]:
        """Which of *syns* open a connection, at the monotonic time *now*."""
        self._forget(now)
        return [self._admit(syn, whose, now) for syn, whose in zip(syns, self._match(syns), strict=True)]

    def lines_for(self, syn: SYN, now: float) -> tuple[str, ...]:
        """The live lines whose *syn* was admitted and is a connection now; this once. Empty if it is of no line."""
        self._forget(now)
        _until, names = self._admitted.pop(syn, (now, ()))
        return tuple(name for name in names if name in self._names)

    def _match(self, syns: Sequence[SYN]) -> Sequence[Sequence[int]]:
        """For each of *syns* the numbers of the lines whose knock it is."""
        found: list[list[int]] = [[] for _ in syns]
        if self._names and syns:
            asked = [(syn.address, syn.port, syn.tsval or 0, syn.isn) for syn in syns]
            for line, syn in zip(*self._authenticators.matches(asked), strict=True):
                found[syn].append(int(line))
        return found

    def _admit(self, syn: SYN, whose: Sequence[int], now: float) -> bool:
        knock = syn.isn << 32 | (syn.tsval or 0)
        tags = {self._tags[number] for number in whose}
        if not tags or any(knock in self._seen.setdefault(one, set()) or self._is_full(one) for one in tags):
            return False
        for one in tags:
            self.remember(one, syn.isn, syn.tsval or 0)
            self._seen[one].add(knock)
        self._admitted[syn] = now + _HANDSHAKE, tuple(self._names[number] for number in whose)
        return True

    def _is_full(self, one: int) -> bool:
        if len(self._seen[one]) < KNOCKS_AT_MOST:
            return False
        if one not in self._full:
            self._full.add(one)
            names = ", ".join(name for name, its in zip(self._names, self._tags, strict=True) if its == one)
            self.warn(f"the line {names} has opened {KNOCKS_AT_MOST} connections and opens no more; issue another")
        return True

    def _forget(self, now: float) -> None:
        while self._admitted:
            oldest = next(iter(self._admitted))
            if self._admitted[oldest][0] > now:
                return
            del self._admitted[oldest]
