"""Who says how much when in a shaped stream: drawn for each connection from a site's exchanges. Pure.

The random source is an argument. A client's `Plan` has the first exchanges of its connection; a bridge's `Rhythm` has
how long it waits before an answer. Both say how long the free frames are that come after the plan (protocol.md §3.6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from torknock.protocol.exchanges import Exchange, Site
from torknock.protocol.frames import FRAME_AT_MOST, HEAD

_T = TypeVar("_T")

EXCHANGES = 12
"""Exchanges of a plan, unless the answers grow beyond `ANSWERS_AT_MOST` before."""

ANSWERS_AT_MOST = 150_000
"""Octets of all answers of a plan. Where tor has nothing to say, so much is padding."""

THINK_AT_MOST = 0.12
"""Seconds before a request of a plan: tor's own octets wait for as long."""

WAIT_AT_MOST = 0.05
"""Seconds before an answer."""

REQUEST_LIKE = 1600
"""Free frames of a client with fewer octets of data are padded to the size of a request, if that has room."""

PADDING_AT_MOST = 1200
"""Octets of padding in any other free frame."""

_LONG = 9
"""TLS records of a page with which a plan begins, where the site has one: a connection that goes on as long as tor's is
no short one."""

_ON_THE_WAY = 0.008
"""Seconds that an answer needs from the bridge's timer to the network: a bridge, and perhaps its web server."""

_VARIES = (0.7, 1.4)
"""A pause is drawn as so many times one of the site's, at least and at most."""

_COOKIE = 24
"""Octets that the requests of one plan are shorter or longer than the site's, at most: cookies and browsers differ."""


class Chance(Protocol):
    """What is asked of `random.SystemRandom`."""

    def randint(self, a: int, b: int) -> int:
        """A number from *a* to *b*, both included."""

    def uniform(self, a: float, b: float) -> float:
        """A number between *a* and *b*."""


class Plan:
    """The first exchanges of a client's connection, and its free frames.

    *tickets* says that nothing else sends what looks like TLS's session tickets: the first answer begins with them.
    Of pages those count that begin with an answer of *first_at_most* octets, if there are any.
    """

    def __init__(
        self, site: Site, chance: Chance, *, tickets: bool = False, first_at_most: int = ANSWERS_AT_MOST
    ) -> None:
        self._site, self._chance = site, chance
        self.exchanges: deque[Exchange] = deque(_drawn(site, chance, first_at_most))
        """Those that are still to come."""
        if tickets:
            first = self.exchanges[0]
            self.exchanges[0] = replace(first, answers=(*_one_of(site.tickets, chance), *first.answers))

    def free_frame(self, data: int) -> int:
        """The size of a frame with *data* octets."""
        request = _one_of(_one_of(self._site.pages, self._chance), self._chance).request
        return request if data < REQUEST_LIKE and HEAD + data <= request else _padded(data, self._chance)


class Rhythm:
    """How a bridge answers."""

    def __init__(self, site: Site, chance: Chance) -> None:
        self._site, self._chance = site, chance

    def wait(self) -> float:
        """Seconds from a request to its answer."""
        wait = _one_of(_one_of(self._site.pages, self._chance), self._chance).wait
        return max(0.0, _pause(wait, WAIT_AT_MOST, self._chance) - _ON_THE_WAY)

    def free_frame(self, data: int) -> int:
        """The size of a frame with *data* octets."""
        return _padded(data, self._chance)


def _drawn(site: Site, chance: Chance, first_at_most: int) -> list[Exchange]:
    """The exchanges of a long page, if there is one that fits; if these are too few, those of further pages."""
    cookie = chance.randint(-_COOKIE, _COOKIE)
    plan: list[Exchange] = []
    left = ANSWERS_AT_MOST
    fitting = [page for page in site.pages if sum(page[0].answers) <= first_at_most] or site.pages
    cheap = [page for page in fitting if _octets(page) <= ANSWERS_AT_MOST] or fitting
    pages: Sequence[tuple[Exchange, ...]] = [page for page in cheap if _records(page) >= _LONG] or cheap
    while len(plan) < EXCHANGES:
        for number, one in enumerate(_one_of(pages, chance)[: EXCHANGES - len(plan)]):
            left -= sum(one.answers)
            if left < 0 and len(plan) > 1:
                return plan
            think = THINK_AT_MOST if plan and not number else one.think
            request = max(one.request + cookie, HEAD * len(one.answers))
            plan.append(Exchange(_pause(think, THINK_AT_MOST, chance), request, one.answers, one.wait))
        pages = site.pages
    return plan


def _octets(page: tuple[Exchange, ...]) -> int:
    return sum(sum(one.answers) for one in page)


def _records(page: tuple[Exchange, ...]) -> int:
    return sum(1 + sum(-(-piece // FRAME_AT_MOST) for piece in one.answers) for one in page)


def _pause(like: float, most: float, chance: Chance) -> float:
    """A pause about as long as *like*; one that would be longer than *most* is drawn up to that."""
    pause = like * chance.uniform(*_VARIES)
    return pause if pause < most else most * chance.uniform(0.4, 1.0)


def _padded(data: int, chance: Chance) -> int:
    return min(HEAD + data + chance.randint(0, PADDING_AT_MOST), FRAME_AT_MOST)


def _one_of(choices: Sequence[_T], chance: Chance) -> _T:
    return choices[chance.randint(0, len(choices) - 1)]
