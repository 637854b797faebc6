"""The privileged service that guards ports for bridges: one connection to it is one door, and the lease of its gate.

A peer can guard the doors that root's access list has for its user, say which ISNs open them, and read how many SYNs
were refused; the sockets on which those connections arrive are the peer's. They are transparent, and what that would
allow besides, `sources` drops. When the peer goes, the gate is closed. Doors that are listed as filtered
are silent for as long as the service runs, guarded or not.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from zope.interface import implementer

from torknock.interfaces import DoorTaken, GateFailed
from torknock.privileged.gate.claimed import keep_claimed
from torknock.privileged.gate.kernel import IKernel
from torknock.privileged.gate.listeners import hidden_listeners, hidden_ports
from torknock.privileged.gate.nftables import DoorTable
from torknock.privileged.gate.silence import Silence, load
from torknock.protocol.door import Door
from torknock.protocol.syn import SYN
from torknock.service import gate_requests
from torknock.service.access import DOORS_A_USER, AccessDenied, AccessList
from torknock.service.claim import claim, fail_if_served
from torknock.service.conversation import PeerConnection
from torknock.service.factory import PeerFactory
from torknock.service.gate_requests import SYNS_A_LINE, Admit, Guard, Withdraw
from torknock.service.grammar import Malformed, no
from torknock.service.interfaces import IConversation, Reply
from torknock.service.posture_table import FAMILY, replace
from torknock.service.ruleset import rest
from torknock.service.sources_table import sources_listing, sources_table

_log = Logger()

_T = TypeVar("_T")

_A_USER = 2 * DOORS_A_USER
"""Connections of one user: others find the service free, and a transport may ask while its predecessor leaves."""


def gate_service(kernel: IKernel, access: AccessList, claims: Path, peers: int) -> PeerFactory:
    """The service for the users of the list *access*; doors are claimed in the directory *claims*.

    It talks to *peers* at once, at most. Needs CAP_NET_ADMIN to be of use, and `nft`.
    """
    guards = Guards(kernel, access, claims)
    silence = Silence(kernel, access, guards.follow_list)
    kernel.reactor.callWhenRunning(silence.start)
    kernel.reactor.addSystemEventTrigger("before", "shutdown", silence.stop)

    def converse(connection: PeerConnection) -> Guarding:
        return Guarding(guards, connection)

    return PeerFactory(kernel.reactor, access.may_ask, converse, _A_USER, peers)


class Guards:
    """What all peers of the service share; doors are claimed in the directory *claims*."""

    def __init__(self, kernel: IKernel, access: AccessList, claims: Path) -> None:
        self.kernel, self.access, self.claims = kernel, access, claims
        self.guarding: set[Guarding] = set()
        """The peers whose conversations have not ended."""
        self._removing = DeferredLock()

    async def follow_list(self) -> None:
        """Have every gate follow the access list, which has changed, and remove the tables that no process guards."""
        for each in list(self.guarding):
            await each.follow()
        await self._removing.run(
            lambda: Deferred.fromCoroutine(_remove_abandoned(self.kernel, self.access, self.claims))
        )

    def may_claim(self) -> Deferred[None]:
        """Fires once no door is claimed to have its table removed."""
        return self._removing.run(lambda: None)


@implementer(IConversation)
class Guarding:
    """One peer's door, among those of *guards* until it has ended."""

    def __init__(self, guards: Guards, connection: PeerConnection) -> None:
        self._guards, self._kernel = guards, guards.kernel
        self._connection = connection
        self._gate: DoorTable | None = None
        self._guarded: Door | None = None
        guards.guarding.add(self)

    async def answer(self, line: str) -> Reply:
        """See `IConversation.answer`."""
        request = gate_requests.parse(line)
        try:
            if isinstance(request, Guard):
                return await self._guard(request)
            if self._gate is None:
                if request != gate_requests.LEAVE:
                    raise Malformed("guard a door first")
                return Reply("ok")
            return Reply(await self._done(request, self._gate))
        except DoorTaken as error:
            return Reply(no("taken", str(error)))
        except GateFailed as error:
            return Reply(no("failed", str(error)))
        except OSError as error:
            return Reply(no("failed", f"the kernel refuses: {error.strerror}"))

    async def follow(self) -> None:
        """End the conversation, and with it the gate, unless the access list still has its door."""
        if self._gate is None or self._guarded is None:
            return
        try:
            self._check(self._guarded)
        except AccessDenied as error:
            _log.warn("a gate is closed: {reason}", reason=str(error))
            await self._closed(self._gate)
            self._connection.hang_up()

    def ended(self) -> Deferred[None] | None:
        """Close the gate; whatever is being done to it ends before."""
        self._guards.guarding.discard(self)
        return None if self._gate is None else self._closed(self._gate)

    async def _guard(self, wanted: Guard) -> Reply:
        if self._gate is not None and self._guarded is not None:
            if wanted.door != self._guarded:
                raise Malformed("one connection guards one door")
            self._check(wanted.door)
            await _whole(self._gate.open(wanted.judging))
            return Reply("ok")
        await self._guards.may_claim()
        door = wanted.door
        self._check(door)
        fail_if_served(door)
        if uid := self._connection.peer.uid:
            await _whole(Deferred.fromCoroutine(load(self._kernel, replace(sources_table(uid), sources_listing(uid)))))
        listening = hidden_listeners(door.host, self._kernel.make_transparent)
        try:
            await self._open(wanted, listening)
        except BaseException:
            for each in listening:
                each.close()
            raise
        return Reply("ok", listening)

    def _check(self, door: Door) -> None:
        self._guards.access.check(door, self._connection.peer.uid)

    async def _open(self, wanted: Guard, listening: tuple[socket.socket, ...]) -> None:
        gate = DoorTable(self._kernel, wanted.door, hidden_ports(listening), self._ask, self._guards.claims)
        self._gate, self._guarded = gate, wanted.door
        try:
            await _whole(gate.open(wanted.judging))
        except GateFailed:
            self._gate = None
            await self._closed(gate)
            raise

    async def _done(self, request: Admit | Withdraw | str, gate: DoorTable) -> str:
        match request:
            case Admit():
                await _whole(gate.admit(request.tokens, request.seconds))
            case Withdraw():
                await _whole(gate.withdraw(request.tokens))
            case gate_requests.INTACT:
                return f"ok {'yes' if await _whole(gate.intact()) else 'no'}"
            case gate_requests.REFUSED:
                return _count(await _whole(gate.refused()))
            case gate_requests.HELD:
                return _count(await _whole(gate.held()))
            case _:
                await _whole(gate.close())
        return "ok"

    async def _ask(self, syns: Sequence[SYN]) -> list[bool]:
        """What the peer says of *syns*."""
        answers: list[bool] = []
        for start in range(0, len(syns), SYNS_A_LINE):
            some = syns[start : start + SYNS_A_LINE]
            said = await self._connection.ask(gate_requests.judge(some), "judged")
            answers += gate_requests.parse_judged(said, len(some))
        return answers

    def _closed(self, gate: DoorTable) -> Deferred[None]:
        closing = gate.close()
        closing.addErrback(lambda failure: _log.error("a gate was not closed: {reason}", reason=str(failure.value)))
        return closing


async def _remove_abandoned(kernel: IKernel, access: AccessList, claims: Path) -> None:
    """Remove the tables of listed doors that no process guards: a service that was killed has left them."""
    try:
        entries = access.entries()
        listed = await kernel.run("nft", ["list", "tables", FAMILY])
        for each in entries:
            left = each.door
            if f"table {FAMILY} {left.table}\n" in listed:
                with contextlib.suppress(DoorTaken):
                    held = claim(left, claims)
                    try:
                        await keep_claimed(kernel, left.table, claims)
                        await load(kernel, rest(left))
                    finally:
                        os.close(held)
    except GateFailed as error:
        _log.warn("tables that no bridge uses are left: {reason}", reason=str(error))


def _count(number: int | None) -> str:
    return f"ok {'unknown' if number is None else number}"


def _whole(step: Deferred[_T]) -> Deferred[_T]:
    """*step*'s result; it is completed even if its result is not awaited any more."""
    waiting: Deferred[_T] = Deferred()
    step.chainDeferred(waiting)
    return waiting
