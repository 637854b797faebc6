"""Tests of torknock.bridge.remote_gate: leases of a service that dies at any moment."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from torknock.bridge.accept import Listener
from torknock.bridge.remote_gate import Lease
from torknock.interfaces import GateFailed
from torknock.protocol.door import Door
from torknock.service.listener import Accepting, listener

reactor: Any = _reactor

CUTS = ("before", "in", "after")
"""When the service dies: the request has come, half of the answer is sent, all of it is."""

ANSWERS = {b"intact": b"ok yes", b"refused": b"ok 7", b"held": b"ok 24"}


class Dying(LineReceiver):
    """The service's end of a lease. It dies at the request and the moment that its factory says."""

    delimiter = b"\n"
    factory: Service
    transport: Any

    def connectionMade(self) -> None:
        self.factory.leases.append(self)

    def lineReceived(self, line: bytes) -> None:
        verb = line.split()[0]
        answer = ANSWERS.get(verb, b"ok") + b"\n"
        if self.factory.dies == (verb.decode(), "before"):
            self.die()
            return
        if verb == b"guard":
            for each in self.factory.listening():
                self.transport.sendFileDescriptor(each.fileno())
        if self.factory.dies == (verb.decode(), "in"):
            self.transport.write(answer[:2])
            self.die()
            return
        self.transport.write(answer)
        if self.factory.dies == (verb.decode(), "after"):
            self.die()

    def die(self) -> None:
        self.factory.dies = None
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.leases.remove(self)


class Service(Factory):
    """A service to which another succeeds at once, at the same socket, as with systemd's."""

    noisy = False

    def __init__(self) -> None:
        self.leases: list[Dying] = []
        self.dies: tuple[str, str] | None = None
        self.made: list[socket.socket] = []

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        lease = Dying()
        lease.factory = self
        return lease

    def listening(self) -> list[socket.socket]:
        """Two new listeners."""
        for each in self.made:
            each.close()
        self.made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for each in self.made:
            each.setblocking(False)
        return self.made

    def close(self) -> None:
        for each in self.made:
            each.close()


class LeaseTests(TestCase):
    """What is held after a death is what is used."""

    timeout = 60

    def setUp(self) -> None:
        directory = tempfile.mkdtemp(prefix="torknock-")
        self.addCleanup(shutil.rmtree, directory)
        self.service = Service()
        self.addCleanup(self.service.close)
        self.path = f"{directory}/socket"
        accepting = Accepting(reactor, listener(self.path, {}, 0), self.service)
        self.addCleanup(lambda: deferLater(reactor, 0.02))
        self.addCleanup(accepting.stop)

    def gate(self) -> tuple[Lease, Listener]:
        heard = Listener(reactor, 443)
        gate = Lease(reactor, self.path, Door("192.0.2.1", 443), heard, lambda syns: [])
        self.addCleanup(heard.stop)
        self.addCleanup(gate.close)
        return gate, heard

    async def died(self, verb: str, cut: str) -> Lease:
        """A gate whose service has died at *verb*, and which was opened again as soon as that was known."""
        gate, _ = self.gate()
        self.service.dies = (verb, cut)
        requests: dict[str, Callable[[], Deferred[Any]]] = {
            "guard": lambda: gate.open(False),
            "admit": lambda: gate.admit([1, 2], 300),
            "withdraw": lambda: gate.withdraw([1]),
            "intact": gate.intact,
            "refused": gate.refused,
            "held": gate.held,
        }
        if verb != "guard":
            await gate.open(False)
        try:
            if await requests[verb]() is False:
                await gate.open(False)
        except GateFailed:
            await gate.open(False)
        return gate

    async def test_a_death_at_any_moment(self) -> None:
        """The gate ends up with one lease, which it uses; nothing else is held."""
        for verb in ("guard", "admit", "withdraw", "intact", "refused", "held"):
            for cut in CUTS:
                with self.subTest(verb=verb, cut=cut):
                    gate = await self.died(verb, cut)
                    await deferLater(reactor, 0.02)
                    if not await gate.intact():
                        await gate.open(False)
                    await deferLater(reactor, 0.02)
                    self.assertEqual(len(self.service.leases), 1)
                    self.assertTrue(await gate.intact())
                    await gate.close()
                    await deferLater(reactor, 0.02)
                    self.assertEqual(self.service.leases, [])

    async def test_a_death_while_two_wait_for_answers(self) -> None:
        """Neither who comes first nor who comes second takes the new lease for the old one."""
        for cut in CUTS:
            with self.subTest(cut=cut):
                gate, _ = self.gate()
                await gate.open(False)
                self.service.dies = ("refused", cut)
                first, second = gate.refused(), gate.intact()
                opened: list[Deferred[None]] = []
                first.addBoth(self.reopens, gate, opened)
                second.addErrback(lambda _: None)
                await first
                await second
                for each in opened:
                    await each.addErrback(lambda _: None)
                await deferLater(reactor, 0.02)
                if not await gate.intact():
                    await gate.open(False)
                self.assertEqual(len(self.service.leases), 1)
                await gate.close()
                await deferLater(reactor, 0.02)
                self.assertEqual(self.service.leases, [])

    @staticmethod
    def reopens(_result: object, gate: Lease, opened: list[Deferred[None]]) -> None:
        opened.append(gate.open(False))

    async def test_a_lease_that_ends_closes_the_listeners(self) -> None:
        """At once, whatever the gate is doing: a table that stands takes SYNs nowhere then."""
        gate, _ = self.gate()
        await gate.open(False)
        ports = [each.getsockname()[1] for each in self.service.made]
        self.service.close()
        self.service.leases[0].transport.abortConnection()
        await deferLater(reactor, 0.05)
        for port in ports:
            with socket.socket() as knocking, self.assertRaises(ConnectionRefusedError):
                knocking.connect(("127.0.0.1", port))
        await gate.open(False)
        with socket.socket() as knocking:
            knocking.connect(self.service.made[0].getsockname())
