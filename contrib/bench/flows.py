"""Connections of a real tor through torknock and of a real Chromium, to the same host, over the same path.

The site's pages are in five parts. A visit of Chromium's is of one part; a client of tor's has the exchanges that other
visits of one part have shown. So folds that are the parts never share a page or a plan.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contrib.bench.browser import Browser, browser
from contrib.bench.exchanges import ONE_WAY, site_of, visited
from contrib.bench.records import Record, connections
from contrib.bench.website import NAME, pages, website
from tests.support.capture import Capture
from tests.support.middlebox import Middlebox
from tests.support.tornet import Tor, TorNetwork
from torknock.channel.shapes import EXCHANGES
from torknock.protocol.exchanges import write_site

TORKNOCK = Path(sys.executable).with_name("torknock")
PARTS = 5
VISITS = 8
"""Visits of each part whose connections are compared, and as many whose exchanges are learned."""

CLIENTS = 16
"""Clients of each part."""

_AT_ONCE = 4
_SITE_PORT = 8443
_HIDDEN = f"ServerTransportPlugin torknock exec {TORKNOCK} server\nServerTransportListenAddr torknock 0.0.0.0:443\n"


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection."""

    kind: str
    """`page`, or what carries tor."""
    part: int
    records: tuple[Record, ...]
    octets: int
    """Of all its records."""
    seconds: float = 0.0
    """Until tor had bootstrapped; 0 for a page."""


class Scene:
    """A private Tor network with a bridge and its web site on one host, and a path of 30 ms to it."""

    def __init__(self, network: TorNetwork, directory: Path) -> None:
        self.network, self.directory = network, directory
        self.client, self.site = network.lab.host("client"), network.lab.host("site")
        self.chance = random.Random(2)  # noqa: S311
        known = pages()
        self.chance.shuffle(known)
        self.parts = [known[part::PARTS] for part in range(PARTS)]
        sockets = directory / "site"
        sockets.mkdir()
        options = f"ServerTransportOptions torknock site={sockets}\n"
        self.bridge = network.bridge(_HIDDEN + options, host="site").wait_bootstrapped()
        self.bridge.wait_log("Registered server transport")
        self.keyring = self.bridge.data_directory / "pt_state" / "torknock"

    def page_flows(self, chromium: Browser, part: int, visits: int) -> Iterator[Flow]:
        """The connections of *visits* visits of *part*."""
        for _ in range(visits):
            urls = self.chance.sample(self.parts[part], 2)
            for records in visited(self.network.lab, self.client, chromium, urls, self.chance, _SITE_PORT):
                yield Flow("page", part, tuple(records[:60]), sum(one.length for one in records))

    def line(self, name: str, *options: str) -> str:
        """A line for many clients."""
        add = ["line", "add", name, "--n", "1024", "--address", f"{self.site.address}:443"]
        return self.torknock(*add, *options).strip().removeprefix("Bridge ")

    def torknock(self, *arguments: str) -> str:
        """What the operator's command prints."""
        return self.site.run([str(TORKNOCK), *arguments, "--keyring", str(self.keyring)]).stdout

    def tor_flows(self, line: str, kind: str, part: int, clients: int, at_once: int = _AT_ONCE) -> Iterator[Flow]:
        """The connections of *clients* clients with *line*, each a tor of its own that bootstraps."""
        with Capture(self.network.lab.hub, self.client.hub_interface) as wire:
            with ThreadPoolExecutor(at_once) as pool:
                took = list(pool.map(lambda number: self._bootstrap(line, kind, part, number), range(clients)))
            found = connections(wire.seen, 443).values()
        for seconds, records in zip(took, found, strict=False):
            yield Flow(kind, part, tuple(records[:60]), sum(one.length for one in records), seconds)

    def _bootstrap(self, line: str, kind: str, part: int, number: int) -> float:
        state = self.directory / f"{kind}-{part}-{number}"
        state.mkdir()
        learned = self.directory / f"{part}.json"
        if learned.exists():
            (state / EXCHANGES).write_bytes(learned.read_bytes())
        plugin = f"/usr/bin/env TOR_PT_STATE_LOCATION={state}/ {TORKNOCK} client"
        client: Tor = self.network.client([line], f"ClientTransportPlugin torknock exec {plugin}\n")
        began = time.monotonic()
        try:
            client.wait_bootstrapped()
            return time.monotonic() - began
        finally:
            client.stop()


@contextmanager
def scene() -> Iterator[tuple[Scene, Browser]]:
    """The scene, and a browser at the client."""
    with TorNetwork() as network, tempfile.TemporaryDirectory(prefix="torknock-bench-flows-") as directory:
        Path(directory).chmod(0o755)  # the web server's own user looks for the bridge's socket in it
        made = Scene(network, Path(directory))
        with (
            website(made.site, f"listen {_SITE_PORT} ssl;", made.torknock("site")) as spki,
            Middlebox(network.lab, made.client, made.site, delay=ONE_WAY),
            browser(made.client, NAME, f"{made.site.address}:{_SITE_PORT}", spki) as chromium,
        ):
            yield made, chromium


def collect(kinds: Sequence[tuple[str, Sequence[str], int]], visits: int = VISITS) -> list[Flow]:
    """The flows of pages, and of each of *kinds*: its name, the options of its line, the clients of each part."""
    flows: list[Flow] = []
    with scene() as (made, chromium):
        for part in range(PARTS):
            print(f"part {part + 1} of {PARTS}", file=sys.stderr, flush=True)
            learned = [flow.records for flow in made.page_flows(chromium, part, visits)]
            (made.directory / f"{part}.json").write_text(write_site(site_of(learned, "learned")))
            flows += made.page_flows(chromium, part, visits)
            for kind, options, clients in kinds:
                flows += made.tor_flows(made.line(f"{kind}{part}", *options), kind, part, clients)
    return flows
