"""A gate that `torknock gate` makes, for bridges without CAP_NET_ADMIN."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from torknock.bridge.accept import Listener
from torknock.interfaces import DoorTaken, GateFailed
from torknock.kernel.interfaces import IReactor
from torknock.protocol.door import Door
from torknock.protocol.syn import Ask
from torknock.service import gate_requests
from torknock.service.gate_requests import Admit, Guard, Withdraw, pieces
from torknock.service.grammar import number
from torknock.service.requester import Answer, ServiceConnection, ServiceLost, ServiceMissing, ServiceRefused, connect

_log = Logger()

TIMEOUT = 10.0
"""Seconds that the service has for each answer."""


class Lease:
    """The gate of *door*, changed step by step by the service at *path*.

    *listener* adopts the sockets that the service hands over; *ask* is asked about SYNs without a token. A connection
    is the lease of the gate. When it is lost nothing is accepted any more, because the service may have died and left
    its table; the gate is not `intact`, and `open` asks for a new lease.
    """

    def __init__(self, reactor: IReactor, path: str, door: Door, listener: Listener, ask: Ask) -> None:
        self._reactor, self._path, self._door, self._listener, self._ask = reactor, path, door, listener, ask
        self._connection: ServiceConnection | None = None

    def open(self, judging: bool) -> Deferred[None]:
        """See `Steps.open`."""
        return Deferred.fromCoroutine(self._open(judging))

    def admit(self, tokens: Collection[int], seconds: int) -> Deferred[None]:
        """See `Steps.admit`."""
        return Deferred.fromCoroutine(self._each([str(Admit(seconds, some)) for some in pieces(tokens)]))

    def withdraw(self, tokens: Collection[int]) -> Deferred[None]:
        """See `Steps.withdraw`."""
        return Deferred.fromCoroutine(self._each([str(Withdraw(some)) for some in pieces(tokens)]))

    def intact(self) -> Deferred[bool]:
        """See `Steps.intact`."""
        return Deferred.fromCoroutine(self._intact())

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""
        return Deferred.fromCoroutine(self._count(gate_requests.REFUSED))

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""
        return Deferred.fromCoroutine(self._count(gate_requests.HELD))

    def close(self) -> Deferred[None]:
        """See `IGate.close`. The service does so by itself when the connection is lost."""
        return Deferred.fromCoroutine(self._close())

    async def _open(self, judging: bool) -> None:
        if self._connection is None:
            try:
                connection = await connect(self._reactor, self._path, self._heard, self._lost)
            except ServiceMissing as error:
                raise GateFailed(str(error), "as root: systemctl restart torknock-gate.socket") from error
            self._hang_up(self._connection)
            self._connection = connection
        answer = await self._answer(str(Guard(self._door, judging)))
        if answer.descriptors:
            self._listener.adopt(answer.descriptors)

    async def _each(self, lines: list[str]) -> None:
        for line in lines:
            await self._answer(line)

    async def _intact(self) -> bool:
        if self._connection is None:
            return False
        try:
            return (await self._answer(gate_requests.INTACT)).words == ("yes",)
        except GateFailed:
            return False

    async def _count(self, what: str) -> int | None:
        if self._connection is None:
            return None
        [said] = (await self._answer(what)).words or ("unknown",)
        return None if said == "unknown" else number(said, 0, 2**63 - 1)

    async def _close(self) -> None:
        connection = self._connection
        if connection is not None:
            try:
                await self._answer(gate_requests.LEAVE)
            except GateFailed as error:
                if not isinstance(error.__cause__, ServiceLost):  # a service that is gone has closed it
                    raise
            finally:
                self._hang_up(connection)

    async def _answer(self, line: str) -> Answer:
        connection = self._connection
        if connection is None:
            raise GateFailed(f"the gate of port {self._door.port} is closed, so it cannot be changed")
        try:
            return await connection.ask(line).addTimeout(TIMEOUT, self._reactor, self._too_late)
        except ServiceRefused as refused:
            raise (DoorTaken if refused.kind == "taken" else GateFailed)(str(refused)) from refused
        except ServiceLost as error:
            self._hang_up(connection)
            raise GateFailed(str(error)) from error

    def _hang_up(self, connection: ServiceConnection | None) -> None:
        if connection is not None:
            self._lost(connection)
            connection.close()

    def _too_late(self, _result: object, seconds: float) -> Any:
        raise ServiceLost(self._path, f"it has not answered within {seconds:.0f} s")

    def _lost(self, connection: ServiceConnection) -> None:
        if connection is self._connection:
            self._connection = None
            self._listener.stop()

    def _heard(self, connection: ServiceConnection, line: str) -> None:
        syns = gate_requests.parse_judge(line)
        answers = [False] * len(syns)
        try:
            answers = list(self._ask(syns))
        except Exception:  # noqa: BLE001  whatever it is, the SYNs must not wait for it
            _log.failure("knocks are refused, because their judge broke")
        connection.tell(gate_requests.judged(answers))
