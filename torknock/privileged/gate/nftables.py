"""The gate in nftables, changed step by step.

The law: steps are made one at a time, in the order in which they were asked for; `refused` is one, and `held` reads the
kernel between two of them. The first step is `open`, which claims the door; `close`, which gives the claim back, may
come at any time, and `open` after it. What may never happen: a token is answered that was answered under an earlier
table; a step other than `open` changes a table without the claim; `intact` is true of a table that another program has
changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

from torknock.interfaces import GateFailed
from torknock.kernel.nftables_state import counted_packets, set_elements
from torknock.privileged.gate.admitted import AdmittedTokens
from torknock.privileged.gate.claimed import keep_claimed
from torknock.privileged.gate.judges import Judges
from torknock.privileged.gate.kernel import IKernel
from torknock.privileged.gate.loaded import LoadedRules, nft
from torknock.protocol.door import Door
from torknock.protocol.syn import AskLater
from torknock.service import ruleset
from torknock.service.claim import claim
from torknock.service.ruleset import HiddenPorts, Judging

_TOKENS_A_COMMAND = 4096
"""So many are written, and read by nft, at once: the text of more would hold the reactor up."""

_T = TypeVar("_T")


class DoorTable:
    """The nftables table that takes *door*'s clients to *hidden*, changed step by step. Needs CAP_NET_ADMIN and `nft`.

    *ask* is asked about SYNs without a token, while the gate is open for judging; the `claim` on the door is made
    in the directory *claims*. Where the kernel lacks nftables' own queue statement, that needs iptables too.
    """

    def __init__(self, kernel: IKernel, door: Door, hidden: HiddenPorts, ask: AskLater, claims: Path) -> None:
        versions = door.versions(ipv6=hidden.ipv6 is not None)
        self._kernel, self._door, self._hidden, self._claims = kernel, door, hidden, claims
        self._judges = Judges(kernel, door, versions, ask)
        self._rules = LoadedRules(kernel, door, versions)
        self._admitted = AdmittedTokens()
        self._answered: set[int] = set()
        """What may have had a SYN-ACK under an earlier table, and is admitted no more."""
        self._one_at_a_time = DeferredLock()
        self._claim: int | None = None
        """The descriptor of the claim on the door; None while the gate is closed."""

    def open(self, judging: bool) -> Deferred[None]:
        """Stand at the door with no token admitted, whatever stood there before; with *judging* `ask` is asked.

        Fails with `DoorTaken` if another process guards this door.
        """
        return self._in_turn(lambda: self._open(judging))

    def admit(self, tokens: Collection[int], seconds: int) -> Deferred[None]:
        """Let each of *tokens* open one connection within *seconds*."""
        return self._in_turn(lambda: self._admit(tokens, seconds))

    def withdraw(self, tokens: Collection[int]) -> Deferred[None]:
        """Let none of *tokens* open a connection any more, whether it did before or not."""
        return self._in_turn(lambda: self._withdraw(tokens))

    def intact(self) -> Deferred[bool]:
        """Whether the table still is what the steps made. Takes microseconds unless any nftables rules have changed."""
        return self._in_turn(self._intact)

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""
        return self._in_turn(self._refused)

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`. Also None if the gate was changed while the kernel told."""
        return Deferred.fromCoroutine(self._held())

    def close(self) -> Deferred[None]:
        """See `IGate.close`."""
        return self._in_turn(self._close)

    def _in_turn(self, step: Callable[[], Coroutine[Deferred[Any], Any, _T]]) -> Deferred[_T]:
        return self._one_at_a_time.run(step)

    async def _open(self, judging: bool) -> None:
        if self._claim is None:
            self._claim = claim(self._door, self._claims)
        await self._rules.fail_if_taken()
        self._answered = await keep_claimed(self._kernel, self._door.table, self._claims)
        self._rules.forget()
        if judging:
            await self._judges.start(self._load)
        else:
            await self._load(None)
            await self._judges.stop()
        self._admitted.clear()
        await self._rules.note()

    async def _load(self, judging: Judging | None) -> None:
        await self._rules.run(ruleset.load(self._door, self._hidden, judging))

    async def _admit(self, tokens: Collection[int], seconds: int) -> None:
        until = self._kernel.reactor.seconds() + seconds
        tokens = set(tokens)
        tokens -= self._answered
        await self._change(tokens, lambda some: ruleset.admit(self._door.table, some, seconds))
        self._admitted.add(tokens, until, self._kernel.reactor.seconds())

    async def _withdraw(self, tokens: Collection[int]) -> None:
        await self._change(tokens, lambda some: ruleset.withdraw(self._door.table, some))
        self._admitted.remove(tokens)

    async def _change(self, tokens: Collection[int], command: Callable[[list[int]], str]) -> None:
        if self._claim is None:
            raise GateFailed(f"the gate of port {self._door.port} is closed, so it cannot be changed")
        waiting = list(tokens)
        for start in range(0, len(waiting), _TOKENS_A_COMMAND):
            await self._rules.run(command(waiting[start : start + _TOKENS_A_COMMAND]))

    async def _intact(self) -> bool:
        if self._judges.lost:
            return False
        generation = self._rules.generation()
        if self._rules.is_known(generation):
            return True
        try:
            if not (await self._rules.unchanged() and await self._judges.intact() and await self._is_filled()):
                return False
        except InterruptedError:
            return True  # as far as is known; it is looked at again
        except GateFailed:
            return False
        await self._rules.fail_if_taken()
        self._rules.compared(generation)
        return True

    async def _is_filled(self) -> bool:
        """Whether the set of tokens holds what was admitted and has not been used, and nothing else."""
        try:  # in this order: what is used between the two is in both
            tokens, claimed = await self._elements("tokens"), await self._elements("claimed")
        except InterruptedError:
            raise
        except OSError:
            return False
        return self._admitted.match(tokens, claimed, self._kernel.reactor.seconds())

    def _elements(self, name: str) -> Deferred[set[int]]:
        pool, table, connect = self._kernel.reactor.getThreadPool(), self._door.table, self._kernel.connect
        return deferToThreadPool(self._kernel.reactor, pool, set_elements, table, name, connect)

    async def _refused(self) -> int | None:
        if self._claim is None:
            return None
        try:
            counted = counted_packets(self._door.table, ruleset.REFUSED, self._kernel.connect)
        except OSError as error:
            raise GateFailed(f"the refused SYNs cannot be counted: {error.strerror or error}") from error
        return counted * (1 if self._judges.judging else ruleset.SAMPLE)

    async def _held(self) -> int | None:
        while self._one_at_a_time.locked:  # a step that is half done would be counted
            await self._one_at_a_time.run(lambda: None)
        if self._claim is None:
            return None
        try:  # without the turn: half a second for 100,000 tokens. A step that begins meanwhile interrupts it.
            return len(await self._elements("tokens"))
        except OSError:  # the table is gone, or changed meanwhile
            return None

    async def _close(self) -> None:
        if self._claim is not None:
            try:
                await keep_claimed(self._kernel, self._door.table, self._claims)
            finally:  # also a gate that is not closed well is left to a successor
                try:
                    await nft(self._kernel, ["-f", "-"], ruleset.rest(self._door).encode("ascii"))
                    await self._judges.stop()
                finally:
                    os.close(self._claim)
                    self._claim = None
