"""What becomes of a SYN on its way through chains of rules, where of some rules it cannot be said whether they match.

The SYN is a stranger's: it opens a connection, and its source is an address that no rule names.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Perhaps = bool | None
"""Whether something is so; None if that cannot be said."""

Place = tuple[str, ...]
"""The family, table and name of a chain."""


class Fate(enum.Enum):
    """What becomes of a SYN."""

    PASSED = "let in"
    """It comes to whatever listens, or meets a closed port."""
    DROPPED = "dropped"
    REJECTED = "rejected"
    """With an ICMP message, which no closed port sends."""
    RESET = "refused with a reset"
    TAKEN = "taken to another service by address translation"
    UNKNOWN = "given to what cannot be judged"
    """It may be answered, dropped, or taken elsewhere."""


@dataclass(frozen=True, slots=True)
class SYN:
    """A stranger's SYN."""

    port: int
    version: int
    """4 or 6."""
    interface: str | None
    """Where it comes in, if that is known."""
    address: str | None = None
    """The one of this host's that it is sent to, if that is known."""
    changed: frozenset[str] = frozenset()
    """What rules may have changed about it on its way: `mark`, `ct` (it may be untracked), and sets, as `@NAME`."""


class Back(enum.Enum):
    """A rule's end of its chain: the SYN goes on where that chain was called."""

    RETURN = enum.auto()


@dataclass(frozen=True, slots=True)
class To:
    """A rule's way to another chain; whether the SYN may come *back* from there."""

    chain: Place
    back: bool


class Unsaid(enum.Enum):
    """A verdict that is given elsewhere, such as behind a packet queue, or that is not understood."""

    ELSEWHERE = enum.auto()


Verdict = Fate | Back | To | Unsaid


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, with what is known of one SYN: whether it matches (*applies*), and what then."""

    applies: Perhaps
    verdict: Verdict | None
    """None if the SYN goes on to the next rule in any case."""
    where: str
    """For people who have to look for it."""
    changes: frozenset[str] = frozenset()
    """What it changes about the SYN; see `SYN.changed`."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of rules; *order* is where in its way a packet meets it, None for one that only rules lead to."""

    rules: tuple[Rule, ...]
    order: tuple[int, int] | None = None
    policy: Fate = Fate.PASSED


@dataclass(frozen=True, slots=True)
class Judgement:
    """What may become of a SYN, and the rules because of which it cannot be said."""

    fates: frozenset[Fate]
    doubts: tuple[str, ...] = ()
    takers: tuple[str, ...] = ()
    """The rules of address translation that take it, or may."""

    @property
    def fate(self) -> Fate | None:
        """The one thing that becomes of it; None if that cannot be said."""
        return next(iter(self.fates - {Fate.UNKNOWN}), None) if len(self.fates) == 1 else None


@dataclass(frozen=True, slots=True)
class _Notes:
    """Rules that were met, each once, in their order."""

    doubts: dict[str, None] = field(default_factory=dict)
    takers: dict[str, None] = field(default_factory=dict)


def both(*claims: Perhaps) -> Perhaps:
    """Whether all of *claims* are so."""
    return False if False in claims else None if None in claims else True


def any_of(claims: Iterable[Perhaps]) -> Perhaps:
    """Whether one of *claims* is so."""
    held = set(claims)
    return True if True in held else None if None in held else False


def opposite(claim: Perhaps) -> Perhaps:
    """Whether *claim* is not so."""
    return None if claim is None else not claim


def judge(chains: Mapping[Place, Chain]) -> Judgement:
    """What becomes of the SYN for which the rules of *chains* were made."""
    notes = _Notes()
    fates: set[Fate] = set()
    bases = [(chain.order, place) for place, chain in chains.items() if chain.order is not None]
    for _order, place in sorted(bases):
        ends = _walk(chains, place, notes, 0)
        reached = {chains[place].policy if end is Back.RETURN else end for end in ends}
        fates |= reached - {Fate.PASSED}
        if Fate.PASSED not in reached:
            break
    else:
        fates.add(Fate.PASSED)
    said = len(fates) == 1 and Fate.UNKNOWN not in fates
    return Judgement(frozenset(fates), () if said else tuple(notes.doubts), tuple(notes.takers))


_DEEPEST = 32
"""More jumps than the kernel follows (16 in nftables)."""


def _walk(chains: Mapping[Place, Chain], place: Place, notes: _Notes, depth: int) -> set[Fate | Back]:
    """How a SYN may leave the chain at *place*; what has to be said of its rules is added to *notes*."""
    ends: set[Fate | Back] = set()
    chain = chains.get(place)
    if chain is None or depth > _DEEPEST:
        notes.doubts[f"chain {' '.join(place)}, which could not be read"] = None
        return {Fate.PASSED, Fate.UNKNOWN, Back.RETURN}
    for rule in chain.rules:
        if rule.applies is False or rule.verdict is None:
            continue
        after = _ends(chains, rule, notes, depth)
        goes_on = isinstance(rule.verdict, To) and rule.verdict.back and Back.RETURN in after
        ends |= after - {Back.RETURN} if goes_on else after
        if rule.applies is None and after != {Back.RETURN}:
            notes.doubts[rule.where] = None
        if rule.applies is True and not goes_on:
            return ends
    return ends | {Back.RETURN}


def _ends(chains: Mapping[Place, Chain], rule: Rule, notes: _Notes, depth: int) -> set[Fate | Back]:
    match rule.verdict:
        case To(place):
            return _walk(chains, place, notes, depth + 1)
        case Fate() | Back():
            if rule.verdict is Fate.TAKEN:
                notes.takers[rule.where] = None
            return {rule.verdict}
    notes.doubts[rule.where] = None
    return {Fate.PASSED, Fate.UNKNOWN}
