"""A real gate in a process of its own, told what to do line by line: `python -m tests.support.gate_process`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineReceiver

from tests.support.bridge import GREETING, knock
from tests.support.netns import Host, end
from torknock.bridge.accept import Listener
from torknock.bridge.choose_gate import find_gate
from torknock.interfaces import GateFailed, IGate
from torknock.protocol.door import Door
from torknock.protocol.wanted import Page, Wanted
from torknock.service.access import EVERYWHERE

PORT = 8443


class GateProcess:
    """A bridge's gate on *bridge*, found as a bridge finds it, and knocked at from *client*; see `Guarded`.

    The process is put behind the command *before*; *helper* is the socket of `torknock gate`, *state* its directory.
    """

    def __init__(self, bridge: Host, client: Host, before: Sequence[str], helper: Path, state: Path) -> None:
        self._bridge, self._client = bridge, client
        command = [*before, sys.executable, "-m", "tests.support.gate_process", str(helper), str(state)]
        self._process = bridge.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def apply(self, wanted: Wanted) -> None:
        pages = [(page.epoch, page.edition, page.seconds, list(page.tokens)) for page in wanted.pages]
        self._ask("apply", wanted.judging, pages)

    def refused(self) -> int | None:
        counted: int | None = self._ask("refused")
        return counted

    def held(self) -> int | None:
        counted: int | None = self._ask("held")
        return counted

    def close(self) -> None:
        self._ask("close")

    def disturb(self) -> None:
        self._bridge.run(["nft", "flush", "ruleset"])

    def opens(self, token: int) -> bool:
        return knock(self._client, self._bridge.address, PORT, token, 0.3) == GREETING

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def end(self) -> None:
        """Close the gate, and end the process."""
        self.close()
        end([self._process])

    def _ask(self, verb: str, *arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self._process.stdin.flush()
        failed, answer = json.loads(self._process.stdout.readline())
        if failed is not None:
            raise GateFailed(failed)
        return answer


class _Told(LineReceiver):
    """Does with *gate* what it reads, and writes an answer for each line."""

    delimiter = b"\n"
    MAX_LENGTH = 1 << 20
    transport: Any

    def __init__(self, gate: IGate) -> None:
        self._gate: Any = gate

    def lineReceived(self, line: bytes) -> None:
        verb, *arguments = json.loads(line)
        if verb == "apply":
            judging, pages = arguments
            done = self._gate.apply(Wanted(judging, tuple(Page(*each) for each in pages)))
        else:
            done = getattr(self._gate, verb)()
        done.addCallbacks(lambda answer: self._say(None, answer), lambda failure: self._say(str(failure.value), None))

    def _say(self, failed: str | None, answer: object) -> None:
        self.sendLine(json.dumps([failed, answer]).encode("ascii"))


class _Greeter(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(GREETING)
        self.transport.loseConnection()


async def _serve(reactor: Any, helper: str, state: Path) -> None:
    listener = Listener(reactor, PORT)
    entrance = await find_gate(reactor, helper, Door(EVERYWHERE, PORT), True, listener, state)
    StandardIO(_Told(entrance.make_gate(lambda syns: [False] * len(syns))))
    while (connection := await listener.accept()) is not None:
        connection.carry(_Greeter())


def main(helper: str, state: str) -> None:
    """Guard `PORT` until the end."""

    def begin(reactor: Any) -> Deferred[None]:
        reactor.seconds = time.monotonic
        return Deferred.fromCoroutine(_serve(reactor, helper, Path(state)))

    react(begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
