"""The gate in nftables: loads the ruleset, changes its tokens, tells when another program changed it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

from torknock.interfaces import GateFailed
from torknock.kernel.nftables_state import counted_packets, ruleset_generation, set_elements
from torknock.privileged.gate import ruleset
from torknock.privileged.gate.claimed import keep_claimed
from torknock.privileged.gate.kernel import IKernel
from torknock.privileged.gate.nfqueue import PacketQueue
from torknock.privileged.gate.ruleset import HiddenPorts, Judging
from torknock.privileged.gate.translation import taken
from torknock.privileged.gate.xtables import XTables, loaded_rules
from torknock.protocol.door import PREFIX, Door, Posture
from torknock.protocol.syn import AskLater
from torknock.service.claim import claim
from torknock.service.posture_table import FAMILY, posture_table

_TOKENS_A_COMMAND = 4096
"""So many are written, and read by nft, at once: the text of more would hold the reactor up."""

_SLACK = 2.0
"""Seconds within which a token may have run out in the kernel, or not, by this process's clock."""

_T = TypeVar("_T")


async def loaded_tables(kernel: IKernel) -> str:
    """Every table of ours in this network namespace as nft prints it, without elements; "" if there is none.

    Rules of iptables that go with them follow, each as the command that would make it.
    """
    tables = (await _nft(kernel, ["list", "tables", FAMILY])).split("\n")
    ours = [table.removeprefix("table ") for table in tables if f" {PREFIX}" in table]
    listed = "".join([await _list(kernel, table.split()[1]) for table in ours])
    return listed + (await loaded_rules(kernel) if "meta mark set" in listed else "")


class DoorTable:
    """The nftables table that takes *door*'s clients to *hidden*, changed step by step. Needs CAP_NET_ADMIN and `nft`.

    *ask* is asked about SYNs without a token, while the gate is open for judging; the `claim` on the door is made
    in the directory *claims*. Where the kernel lacks nftables' own queue statement, that needs iptables too.
    """

    def __init__(self, kernel: IKernel, door: Door, hidden: HiddenPorts, ask: AskLater, claims: Path) -> None:
        self._kernel = kernel
        self._door = door
        self._hidden = hidden
        self._versions = door.versions(ipv6=hidden.ipv6 is not None)
        self._claims = claims
        self._queue = PacketQueue(
            kernel.reactor, ruleset.queue_number(door), door.port, ask, ruleset.let_in, kernel.connect
        )
        self._xtables = XTables(kernel, door, self._versions)
        self._judging: Judging | None = None
        self._one_at_a_time = DeferredLock()
        self._claim: int | None = None
        self._loaded = ""
        self._generation: int | None = None
        self._looked: tuple[int | None, str] = None, ""
        """The generation of nftables in which `_taken` was asked last, and the rule that it told."""
        self._admitted: list[tuple[float, set[int]]] = []
        """Token -> when it runs out."""
        self._answered: set[int] = set()
        """What may have had a SYN-ACK under an earlier table, and is admitted no more."""

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
        """See `IGate.held`."""
        return self._in_turn(self._held)

    def close(self) -> Deferred[None]:
        """See `IGate.close`."""
        return self._in_turn(self._close)

    def _in_turn(self, step: Callable[[], Coroutine[Deferred[Any], Any, _T]]) -> Deferred[_T]:
        return self._one_at_a_time.run(step)

    async def _open(self, judging: bool) -> None:
        if self._claim is None:
            self._claim = claim(self._door, self._claims)
        await self._fail_if_taken()
        self._answered = await keep_claimed(self._kernel, self._door.table, self._claims)
        self._generation = None  # what was changed before is replaced
        if judging:
            self._queue.start()
            await self._load_for_judging()
        else:
            await self._load(ruleset.load(self._door, self._hidden))
            await self._stop_judging()
        self._admitted.clear()
        self._loaded = await self._listed()

    async def _load_for_judging(self) -> None:
        if self._judging is not Judging.XTABLES:
            try:
                await self._load(ruleset.load(self._door, self._hidden, Judging.QUEUE))
            except GateFailed:  # most likely a kernel without nft_queue; anything else fails again below
                self._judging = None
            else:
                self._judging = Judging.QUEUE
                return
        await self._xtables.place()
        self._judging = Judging.XTABLES
        await self._load(ruleset.load(self._door, self._hidden, Judging.XTABLES))

    async def _stop_judging(self) -> None:
        self._queue.stop()
        if self._judging is Judging.XTABLES:
            await self._xtables.remove()
        self._judging = None

    async def _admit(self, tokens: Collection[int], seconds: int) -> None:
        until = self._kernel.reactor.seconds() + seconds
        tokens = set(tokens)
        tokens -= self._answered
        await self._change(tokens, lambda some: ruleset.admit(self._door.table, some, seconds))
        # In batches: one collection of all tokens, made again at each epoch's end, would hold the reactor up.
        self._admitted = [batch for batch in self._admitted if batch[0] > self._kernel.reactor.seconds() - _SLACK]
        self._admitted.append((until, tokens.difference(*(earlier for _, earlier in self._admitted))))

    async def _withdraw(self, tokens: Collection[int]) -> None:
        await self._change(tokens, lambda some: ruleset.withdraw(self._door.table, some))
        for _, batch in self._admitted:
            batch.difference_update(tokens)

    def _lasting(self, seconds: float) -> set[int]:
        """What was admitted for at least so many *seconds* from now on."""
        at_least = self._kernel.reactor.seconds() + seconds
        return set().union(*(batch for until, batch in self._admitted if until > at_least))

    async def _is_filled(self) -> bool:
        """Whether the set of tokens holds what was admitted and has not been used, and nothing else."""
        try:  # in this order: what is used between the two is in both
            tokens, claimed = await self._elements("tokens"), await self._elements("claimed")
        except InterruptedError:
            raise
        except OSError:
            return False
        return tokens <= self._lasting(-_SLACK) and self._lasting(_SLACK) <= tokens | claimed

    def _elements(self, name: str) -> Deferred[set[int]]:
        pool, table, connect = self._kernel.reactor.getThreadPool(), self._door.table, self._kernel.connect
        return deferToThreadPool(self._kernel.reactor, pool, set_elements, table, name, connect)

    async def _change(self, tokens: Collection[int], command: Callable[[list[int]], str]) -> None:
        if self._claim is None:
            raise GateFailed(f"the gate of port {self._door.port} is closed, so it cannot be changed")
        waiting = list(tokens)
        for start in range(0, len(waiting), _TOKENS_A_COMMAND):
            await self._load(command(waiting[start : start + _TOKENS_A_COMMAND]))

    async def _load(self, commands: str) -> None:
        before = _generation(self._kernel)
        await _nft(self._kernel, ["-f", "-"], commands.encode("ascii"))
        after = _generation(self._kernel)
        ours_alone = after == before + 1 and self._generation in (before, None)
        self._generation = after if ours_alone else None

    async def _intact(self) -> bool:
        if self._judging is not None and not self._queue.running:
            return False
        generation = _generation(self._kernel)
        if generation != self._generation:
            try:
                if await self._listed() != self._loaded:
                    return False
                if self._judging is Judging.XTABLES and not await self._xtables.intact():
                    return False
                if not await self._is_filled():
                    return False
            except InterruptedError:
                return True  # as far as is known; it is looked at again
            except GateFailed:
                return False
            await self._fail_if_taken()
            self._generation = generation
        return True

    async def _fail_if_taken(self) -> None:
        """Fail while address translation takes the port elsewhere: strangers, and clients with their tokens."""
        generation = _generation(self._kernel)
        if generation != self._looked[0]:
            own = None if self._door.everywhere else self._door.host
            asked = self._door.port, self._versions, own, self._kernel.output
            pool = self._kernel.reactor.getThreadPool()
            rule = await deferToThreadPool(self._kernel.reactor, pool, taken, *asked)
            self._looked = generation, rule
        if rule := self._looked[1]:
            raise GateFailed(
                f"address translation takes port {self._door.port} to another service",
                f"remove the rule, or hide another port: {rule}",
            )

    async def _listed(self) -> str:
        """The tables of this door, without elements."""
        listed = await _list(self._kernel, self._door.table)
        if self._door.posture is Posture.FILTERED:
            listed += await _list(self._kernel, posture_table(self._door))
        return listed

    async def _refused(self) -> int | None:
        if self._claim is None:
            return None
        try:
            counted = counted_packets(self._door.table, ruleset.REFUSED, self._kernel.connect)
        except OSError as error:
            raise GateFailed(f"the refused SYNs cannot be counted: {error.strerror or error}") from error
        return counted * (ruleset.SAMPLE if self._judging is None else 1)

    async def _held(self) -> int | None:
        if self._claim is None:
            return None
        try:
            return len(await self._elements("tokens"))
        except OSError:  # the table is gone, or changed meanwhile
            return None

    async def _close(self) -> None:
        if self._claim is not None:
            try:
                await keep_claimed(self._kernel, self._door.table, self._claims)
            finally:  # also a gate that is not closed well is left to a successor
                try:
                    await _nft(self._kernel, ["-f", "-"], ruleset.rest(self._door).encode("ascii"))
                    await self._stop_judging()
                finally:
                    os.close(self._claim)
                    self._claim = None


def _generation(kernel: IKernel) -> int:
    try:
        return ruleset_generation(kernel.connect)
    except OSError as error:
        reason = error.strerror or error
        raise GateFailed(f"nftables cannot be asked: {reason}", "use a kernel with nf_tables") from error


async def _list(kernel: IKernel, table: str) -> str:
    return await _nft(kernel, ["--stateless", "--terse", "list", "table", FAMILY, table])


async def _nft(kernel: IKernel, arguments: list[str], stdin: bytes = b"") -> str:
    return await kernel.run("nft", arguments, stdin)
