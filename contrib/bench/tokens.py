"""How long 192,000 tokens take to load, and how long an epoch change holds the reactor up.

The measured process runs in a network namespace: `python -m contrib.bench.tokens DIRECTORY`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.internet.threads import deferToThread

from contrib.bench.table import Figure
from tests.support.netns import Namespace
from torknock.bridge.books import Books
from torknock.bridge.keeper import Keeper
from torknock.bridge.known_lines import KnownLines
from torknock.bridge.ledger import SpentKnocks, SpentTokens
from torknock.bridge.spending import Spending
from torknock.bridge.stepped_gate import SteppedGate
from torknock.keyring.lines import Keyring
from torknock.keyring.queue import KeyringQueue
from torknock.privileged.gate.kernel import Kernel
from torknock.privileged.gate.nftables import DoorTable
from torknock.protocol.door import Door
from torknock.protocol.token import EPOCH
from torknock.service.ruleset import HiddenPorts

LINES = 8_000
_BEAT = 0.001


class Stall:
    """The longest time in which the reactor, asked to come every millisecond, did not."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.monotonic()
        self._beat = LoopingCall(self._came)
        self._beat.start(_BEAT)

    def _came(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last - _BEAT)
        self._last = now

    def stop(self) -> float:
        """The longest stall, in seconds."""
        self._beat.stop()
        return self.longest


async def _measure(reactor: Any, directory: Path) -> None:
    ahead = 0.0

    def now() -> float:
        return time.time() + ahead

    keyring = Keyring.open(directory, create=False)
    books = Books(SpentTokens(directory / "spent"), SpentKnocks(directory / "knocks"))
    spending = Spending(books, reactor, now)
    table = DoorTable(Kernel(reactor), Door("::", 443), HiddenPorts(1, 2), spending.judge, directory / "doors")
    gate = SteppedGate(reactor, table)
    keeper = Keeper(KnownLines(KeyringQueue(keyring, reactor, deferToThread)), spending, gate)
    began = time.monotonic()
    await keeper.start()
    load = time.monotonic() - began
    await deferLater(reactor, 2)
    stall = Stall()
    # The epoch that comes: as if the wall clock had reached it by itself.
    ahead = EPOCH - now() % EPOCH
    for told in (gate._told or {}).values():
        told.until -= ahead
    await deferLater(reactor, 5)
    longest = stall.stop()
    await keeper.stop()
    print(json.dumps({"load": load, "stall": longest}))


def main(directory: str) -> None:
    """Print what was measured as JSON."""

    def begin(reactor: Any) -> Deferred[None]:
        reactor.seconds = time.monotonic
        return Deferred.fromCoroutine(_measure(reactor, Path(directory)))

    react(begin)


def figures() -> Iterator[Figure]:
    """The two figures, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="torknock-bench-") as directory:
        with Keyring.open(Path(directory) / "keyring", create=True) as keyring:
            for number in range(LINES):
                keyring.add(f"line{number}", expires=None, now=time.time())
        with Namespace("tk-bench-tokens") as where:
            told = where.run([sys.executable, "-m", "contrib.bench.tokens", f"{directory}/keyring"]).stdout
    measured = json.loads(told)
    yield Figure("tokens", "192,000 tokens loaded", measured["load"], "s", at_most=3)
    yield Figure("tokens", "longest stall in an epoch change", 1000 * measured["stall"], "ms", at_most=20)


if __name__ == "__main__":
    main(sys.argv[1])
