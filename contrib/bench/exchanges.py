"""The exchanges of real pages: Chromium loads them through nginx over a path of 30 ms, and a capture is read.

    python -m contrib.bench.exchanges > torknock/channel/exchanges.json

Needs root, Chromium, and the packages `python3-doc` and `debian-handbook`, whose pages they are.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from contrib.bench.browser import Browser, browser
from contrib.bench.records import INNER, Record, after_handshake, connections
from contrib.bench.website import NAME, pages, website
from tests.support.capture import Capture
from tests.support.middlebox import Middlebox
from tests.support.netns import Host, Lab
from torknock.protocol.exchanges import Exchange, Site, exchange, write_site
from torknock.protocol.frames import FRAME_AT_MOST

ONE_WAY = 0.015
"""Seconds that a packet needs from the client to the site, and back."""

_LEAST = 3
"""Exchanges of a connection that counts as a page."""

_TICKETS = 20
"""Of so many connections one is written down for its tickets: there are few kinds."""

_TAKEN = (
    "Chromium 156 without a window, nginx 1.22 that compresses over HTTP/1.1, a path of 30 ms; pages of the"
    " Debian packages python3-doc 3.11 and debian-handbook 11, two pages a visit, {visits} visits, each with an empty"
    " cache; the connections that carried three exchanges or more"
)


def exchanges(records: Sequence[Record]) -> tuple[Exchange, ...]:
    """The exchanges of a connection, as the client's end of the path saw them."""
    inside = _without_tickets(records)[1]
    found: list[Exchange] = []
    number, before = 0, next((record.time for record in records if record.from_client and record.kind == 23), 0.0)
    while number < len(inside):
        request, number = inside[number], number + 1
        answer: list[Record] = []
        while number < len(inside) and not inside[number].from_client:
            answer.append(inside[number])
            number += 1
        if not request.from_client or not answer:
            continue
        think, wait = request.time - before, answer[0].time - request.time - 2 * ONE_WAY
        found.append(exchange(think, request.length - INNER, _pieces(answer), wait))
        before = answer[-1].time
    return tuple(found)


def _without_tickets(records: Sequence[Record]) -> tuple[tuple[int, ...], list[Record]]:
    """TLS's session tickets on a connection, and what follows its handshake without them.

    They are the server's first two records there, as far as they are of one length.
    """
    inside = after_handshake(list(records))
    first = next((record.length for record in inside if not record.from_client), 0)
    tickets: list[int] = []
    rest = []
    for record in inside:
        if not record.from_client and record.length == first < 400 and len(tickets) < 2:
            tickets.append(record.length - INNER)
        else:
            rest.append(record)
    return tuple(tickets), rest


def _pieces(answer: Sequence[Record]) -> list[int]:
    """The octets of each run of records that ends with one that is not full."""
    pieces, full = [0], False
    for record in answer:
        if not full and pieces[-1]:
            pieces.append(0)
        pieces[-1] += record.length - INNER
        full = record.length - INNER == FRAME_AT_MOST
    return pieces


@contextmanager
def visitor(lab: Lab, client: Host, site: Host) -> Iterator[Browser]:
    """A browser at *client*, for which the web site at *site* is at the other end of a path of 30 ms."""
    with (
        website(site) as spki,
        Middlebox(lab, client, site, delay=ONE_WAY),
        browser(client, NAME, site.address, spki) as chromium,
    ):
        yield chromium


def visited(
    lab: Lab, client: Host, chromium: Browser, urls: Sequence[str], chance: random.Random, port: int = 443
) -> list[list[Record]]:
    """The records of the connections of one visit of *urls*, after which the person reads for a moment."""
    with Capture(lab.hub, client.hub_interface) as wire:
        chromium.visit(list(urls), [chance.uniform(0.3, 1.5) for _ in urls])
    return list(connections(wire.seen, port).values())


def site_of(every: Sequence[Sequence[Record]], taken: str) -> Site:
    """What connections with the records *every* show of a site."""
    found = [exchanges(records) for records in every]
    tickets = [_without_tickets(records)[0] for records in every]
    return Site(taken, tuple(page for page in found if len(page) >= _LEAST), tuple(sorted(tickets)[::_TICKETS]))


def main(visits: int = 120) -> None:
    """Print the exchanges of *visits* visits."""
    chance = random.Random(1)  # noqa: S311
    known = pages()
    every: list[list[Record]] = []
    with Lab() as lab:
        client, site = lab.host("client"), lab.host("site")
        with visitor(lab, client, site) as chromium:
            for number in range(visits):
                every += visited(lab, client, chromium, [chance.choice(known) for _ in range(2)], chance)
                print(f"{number + 1} of {visits}", file=sys.stderr)
    print(write_site(site_of(every, _TAKEN.format(visits=visits))), end="")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
