"""Tests of torknock.bridge.remote_gate: leases of a service that dies at any moment."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.memory_kernel import MemoryKernel
from torknock.bridge.accept import Listener
from torknock.bridge.remote_gate import Lease
from torknock.interfaces import DoorTaken, GateFailed
from torknock.privileged.gate.service import Guarding, Guards
from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import SYN
from torknock.service.access import AccessList, Entry
from torknock.service.conversation import PeerConnection
from torknock.service.factory import PeerFactory
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


class ServiceTests(TestCase):
    """A lease of the real gate service over its socket; the kernel behind that is in memory."""

    door = Door("127.0.0.1", 443, Posture.FILTERED)

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        self.kernel = MemoryKernel()
        access = directory / "gate.toml"
        user = pwd.getpwuid(os.getuid()).pw_name
        access.write_text(str(Entry(self.door.host, self.door.port, self.door.posture, user)))
        access.chmod(0o644)
        self.path = str(directory / "socket")
        listed = AccessList(access, (0, os.getuid()))
        guards = Guards(self.kernel, listed, directory / "doors")
        self.guarding: list[Guarding] = []

        def converse(connection: PeerConnection) -> Guarding:
            self.guarding.append(Guarding(guards, connection))
            return self.guarding[-1]

        self.peers = PeerFactory(self.kernel.reactor, listed.may_ask, converse, 16, 16)
        accepting = Accepting(reactor, listener(self.path, {}, 0), self.peers)
        self.addCleanup(lambda: deferLater(reactor, 0.02))
        self.addCleanup(self.peers.hang_up)
        self.addCleanup(accepting.stop)

    def lease(self, door: Door) -> Lease:
        """A lease of *door*; every SYN with an even ISN is let in."""
        heard = Listener(reactor, door.port)
        lease = Lease(reactor, self.path, door, heard, lambda syns: [syn.isn % 2 == 0 for syn in syns])
        self.addCleanup(heard.stop)
        self.addCleanup(lease.close)
        return lease

    async def failure(self, failing: Deferred[Any]) -> Exception:
        """The `GateFailed` with which *failing* fails."""
        failed: Exception = await self.assertFailure(failing, GateFailed)
        return failed

    async def test_each_step_is_done_in_the_kernel(self) -> None:
        """Tokens come and go, are counted, and are gone with the lease."""
        lease = self.lease(self.door)
        self.assertIs(await lease.intact(), False)
        self.assertIsNone(await lease.held())
        await lease.open(False)
        await lease.admit([1001, 1002, 1003], 300)
        await lease.withdraw([1003])
        self.assertEqual((await lease.intact(), await lease.held()), (True, 2))
        self.assertTrue(self.kernel.syn(self.door.table, 1001))
        self.assertFalse(self.kernel.syn(self.door.table, 1003))
        self.kernel.lose(self.door.table)
        self.assertIs(await lease.intact(), False)
        await lease.close()
        self.assertNotIn(self.door.table, self.kernel.tables)
        error = await self.failure(lease.admit([1001], 300))
        self.assertIn("is closed, so it cannot be changed", str(error))

    async def test_a_door_has_one_lease(self) -> None:
        """The second is refused with the reason, and gets the door once the first has left it."""
        first, second = self.lease(self.door), self.lease(self.door)
        await first.open(False)
        await self.assertFailure(second.open(False), DoorTaken)
        await first.close()
        await second.open(False)

    async def test_a_door_that_root_has_not_listed_is_refused(self) -> None:
        """In the service's words."""
        other = self.lease(Door("127.0.0.1", 444, Posture.FILTERED))
        error = await self.failure(other.open(False))
        self.assertIn("may not guard port 444", str(error))

    async def test_a_knock_is_judged_by_the_bridge(self) -> None:
        """Each of those that are asked about at once; a judge that breaks refuses them all."""
        lease = self.lease(self.door)
        await lease.open(True)
        [guarding] = self.guarding
        syns = [SYN("198.51.100.1", 50_000, bytes([127, 0, 0, 1]), 443, isn, None) for isn in (1, 2, 4)]
        self.assertEqual(list(await guarding._ask(syns)), [False, True, True])

        def breaks(_syns: object) -> list[bool]:
            raise ZeroDivisionError

        self.patch(lease, "_ask", breaks)
        self.assertEqual(list(await guarding._ask(syns)), [False] * 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_a_service_that_is_missing_is_to_be_started(self) -> None:
        """As root."""
        lease = self.lease(self.door)
        lease._path = "/nowhere/gate.sock"
        error = await self.failure(lease.open(False))
        self.assertIn("systemctl restart torknock-gate.socket", str(error))
