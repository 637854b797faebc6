"""What a real site's pages look like inside TLS: the file of a site's exchanges (protocol.md §3.6). Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from torknock.errors import TorknockError
from torknock.protocol.frames import ANSWER_AT_MOST, HEAD

FORMAT = "torknock exchanges 1"
TEXT_AT_MOST = 4 << 20
"""Octets of a file of exchanges."""

REQUEST_AT_MOST = 4096
PIECES_AT_MOST = 8
_TICKETS_AT_MOST = 4
_PAGES_AT_MOST = 4096
_EXCHANGES_AT_MOST = 64
_PAUSE_AT_MOST = 60_000_000
"""Microseconds of a pause that is written down."""


class BadExchanges(TorknockError):
    """A file of exchanges that is not as protocol.md §3.6 has it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the file of a site's exchanges is not usable: {why}", "make it with `torknock site learn`")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, as one connection carried them."""

    think: float
    """Seconds from the end of the answer before, or the end of TLS's handshake, to this request."""
    request: int
    """Octets of the request, in one TLS record."""
    answers: tuple[int, ...]
    """Octets of each piece of the answer; a piece ends where a TLS record ends that is not full."""
    wait: float
    """Seconds from the request to the first octet of the answer, without the time on the network."""


@dataclass(frozen=True, slots=True)
class Site:
    """The exchanges of a site: of each connection that loaded a page, in order."""

    taken: str
    """How they were taken, for people."""
    pages: tuple[tuple[Exchange, ...], ...]
    tickets: tuple[tuple[int, ...], ...] = ((),)
    """Octets of each session ticket that the site's TLS sends before its first answer, on one connection or another."""


def write_site(site: Site) -> str:
    """What `parse_site` reads. Pauses are written in microseconds."""
    pages = [
        [[round(one.think * 1e6), one.request, list(one.answers), round(one.wait * 1e6)] for one in page]
        for page in site.pages
    ]
    lines = ",\n  ".join(json.dumps(page, separators=(",", ":")) for page in pages)
    head = f'"format": {json.dumps(FORMAT)},\n "taken": {json.dumps(site.taken)}'
    head += f',\n "tickets": {json.dumps(site.tickets)}'
    return f'{{{head},\n "pages": [\n  {lines}\n ]}}\n'


def parse_site(text: str) -> Site:
    """The exchanges in *text*. Raises `BadExchanges`."""
    if len(text) > TEXT_AT_MOST:
        raise BadExchanges(f"it has more than {TEXT_AT_MOST} octets")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise BadExchanges("it is not JSON") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise BadExchanges(f"its format is not {FORMAT!r}")
    taken, pages = told.get("taken"), told.get("pages")
    if not isinstance(taken, str) or not _is_list(pages, 1, _PAGES_AT_MOST):
        raise BadExchanges(f"it needs 1 to {_PAGES_AT_MOST} pages, and how they were taken")
    tickets = told.get("tickets", [[]])
    if not _is_list(tickets, 1, _PAGES_AT_MOST) or not all(map(_are_tickets, tickets)):
        raise BadExchanges(f"its tickets are not lists of up to {_TICKETS_AT_MOST} sizes")
    every = tuple(_page(page, number) for number, page in enumerate(pages, 1))
    return Site(taken, every, tuple(map(tuple, tickets)))


def _are_tickets(sizes: Any) -> bool:
    return _is_list(sizes, 0, _TICKETS_AT_MOST) and all(_is_number(size, HEAD, REQUEST_AT_MOST) for size in sizes)


def _page(page: Any, number: int) -> tuple[Exchange, ...]:
    if not _is_list(page, 1, _EXCHANGES_AT_MOST):
        raise BadExchanges(f"page {number} has not 1 to {_EXCHANGES_AT_MOST} exchanges")
    return tuple(_exchange(one, number) for one in page)


def _exchange(one: Any, page: int) -> Exchange:
    if not (
        _is_list(one, 4, 4)
        and _is_number(one[0], 0, _PAUSE_AT_MOST)
        and _is_number(one[1], HEAD, REQUEST_AT_MOST)
        and _is_list(one[2], 1, PIECES_AT_MOST)
        and all(_is_number(piece, HEAD, ANSWER_AT_MOST) for piece in one[2])
        and _is_number(one[3], 0, _PAUSE_AT_MOST)
    ):
        raise BadExchanges(
            f"page {page} has an exchange that is not [microseconds, request, [1 to {PIECES_AT_MOST} pieces of the "
            f"answer], microseconds], with {HEAD} to {REQUEST_AT_MOST} octets of request and {HEAD} to "
            f"{ANSWER_AT_MOST} of each piece"
        )
    return Exchange(one[0] / 1e6, one[1], tuple(one[2]), one[3] / 1e6)


def _is_number(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_list(value: Any, least: int, most: int) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and least <= len(value) <= most


def exchange(think: float, request: int, answers: Sequence[int], wait: float) -> Exchange:
    """An exchange as it may be written down, out of what was seen: what is out of bounds is brought to them.

    A piece that is too long becomes several, whose records follow each other as its own did. What is beyond
    `PIECES_AT_MOST` is left out.
    """
    pauses = [min(max(pause, 0.0), _PAUSE_AT_MOST / 1e6) for pause in (think, wait)]
    pieces: list[int] = []
    for answer in answers[:PIECES_AT_MOST]:
        whole, rest = divmod(max(answer, HEAD), ANSWER_AT_MOST)
        pieces += [ANSWER_AT_MOST] * min(whole, PIECES_AT_MOST) + [max(rest, HEAD)] * (rest > 0)
    size = min(max(request, HEAD * PIECES_AT_MOST), REQUEST_AT_MOST)
    return Exchange(pauses[0], size, tuple(pieces[:PIECES_AT_MOST]) or (HEAD,), pauses[1])
