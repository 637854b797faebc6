"""The programs that the gate is made with."""

from __future__ import annotations

import shutil
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from torknock.interfaces import GateFailed
from torknock.kernel.interfaces import IReactor
from torknock.kernel.places import PROGRAMS

ENDS_WITHIN = 30.0
"""Seconds that a program has; then it is killed."""


async def command(reactor: IReactor, name: str, arguments: list[str], stdin: bytes = b"", *, package: str) -> str:
    """What the program *name* writes.

    Raises `GateFailed` if it is missing, cannot be started, ends with anything but 0, or not within `ENDS_WITHIN`.
    """
    path = shutil.which(name, path=PROGRAMS)
    if path is None:
        raise GateFailed(f"the command {name} is missing", f"apt-get install {package}")
    program = _Program(reactor, " ".join((name, *arguments)), stdin)
    try:
        reactor.spawnProcess(program, path, [path, *arguments], env={})
    except OSError as error:  # no process, descriptor or memory can be had
        raise GateFailed(f"{name} cannot be started: {error.strerror}") from error
    return await program.ended


class _Program(ProcessProtocol):
    """A program that runs: what it says, and how it ends."""

    transport: Any

    def __init__(self, reactor: IReactor, words: str, stdin: bytes) -> None:
        self._reactor, self._words, self._stdin = reactor, words, stdin
        self._out, self._err = bytearray(), bytearray()
        self.ended: Deferred[str] = Deferred()
        """Its output, or `GateFailed`. The program runs on if this is cancelled: half a change is none."""

    def connectionMade(self) -> None:
        self._limit = self._reactor.callLater(ENDS_WITHIN, self._too_late)
        self.transport.write(self._stdin)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self._out += data

    def errReceived(self, data: bytes) -> None:
        self._err += data

    def processEnded(self, reason: Failure) -> None:
        if not self._limit.active():
            return
        self._limit.cancel()
        ended: Any = reason.value
        if ended.signal is not None:
            self._fail(f"was ended by signal {ended.signal}")
        elif ended.exitCode:
            told = self._err.decode("utf-8", "replace").strip().partition("\n")[0]
            self._fail(f"ended with {ended.exitCode}: {told or 'nothing said'}")
        else:
            self.ended.callback(self._out.decode("utf-8", "replace"))

    def _too_late(self) -> None:
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:  # a process of its own has its output still
            self.transport.loseConnection()
        self._fail(f"has not ended within {ENDS_WITHIN:.0f} s, and was killed")

    def _fail(self, why: str) -> None:
        self.ended.errback(GateFailed(f"{self._words} {why}"))
