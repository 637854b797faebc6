"""Tests of a bridge that cannot open yet, of what it writes to its keyring, and of which gate it gets."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from tests.support.own_tor import free_port
from tests.support.reactor import reactor
from torknock.bridge import choose_gate
from torknock.bridge.accept import Listener
from torknock.bridge.choose_gate import Entrance, LacksPower, find_gate
from torknock.bridge.counts import Counts
from torknock.bridge.filter.filter_gate import FilterGate
from torknock.bridge.reopening import ReopeningDoor
from torknock.bridge.stepped_gate import SteppedGate
from torknock.bridge.usage import UsageRecord
from torknock.keyring.file import KeyringLocked, KeyringUnreadable
from torknock.keyring.lines import POSTURE, Keyring
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.door import Door, Posture

HOST = IPv4Address("TCP", "192.0.2.7", 443)


@implementer(IListeningPort)
class Opened:
    """A door that has opened."""

    stopped = 0

    def startListening(self) -> None:
        """It listens."""

    def stopListening(self) -> None:
        self.stopped += 1

    def getHost(self) -> IPv4Address:
        return HOST


class ReopeningTests(SynchronousTestCase):
    """`ReopeningDoor`."""

    def setUp(self) -> None:
        self.clock, self.opened = Clock(), Opened()
        self.failures: list[Exception] = []

    async def open(self) -> IListeningPort:
        """Open, once all that is to fail has failed."""
        if self.failures:
            raise self.failures.pop(0)
        return cast(IListeningPort, self.opened)

    def door(self) -> ReopeningDoor:
        """One whose disk was full."""
        return ReopeningDoor(cast(Any, self.clock), self.open, KeyringUnreadable(Path("/k"), "the disk is full"), HOST)

    def test_it_opens_by_itself_once_that_succeeds(self) -> None:
        """Each reason is logged once, and that it is over."""
        again, other = (
            KeyringUnreadable(Path("/k"), "the disk is full"),
            KeyringUnreadable(Path("/k"), "the file is damaged"),
        )
        self.failures = [again, other]
        with capturedLogs() as logs:
            door = self.door()
            self.clock.pump([1.0] * 4)
        texts = [str(formatEvent(event)) for event in logs]
        self.assertEqual([("full" in it, "damaged" in it, "open again" in it) for it in texts],
                         [(True, False, False), (False, True, False), (False, False, True)])  # fmt: skip
        self.assertEqual(door.getHost(), HOST)
        door.startListening()
        door.stopListening()
        self.assertEqual(self.opened.stopped, 1)

    def test_stopped_it_tries_no_more(self) -> None:
        """Nothing has opened, so nothing is closed."""
        door = self.door()
        self.assertIsNone(door.stopListening())
        self.clock.pump([1.0] * 3)
        self.assertEqual((self.opened.stopped, self.clock.getDelayedCalls()), (0, []))

    def test_a_fault_of_the_program_is_logged(self) -> None:
        """The port stays closed."""
        self.failures = [ZeroDivisionError()]
        with capturedLogs() as logs:
            self.door()
            self.clock.pump([1.0] * 3)
        self.assertIn("opening it failed", str(formatEvent(logs[-1])))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class UsageTests(SynchronousTestCase):
    """What a bridge writes to its keyring."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        self.keyring = Keyring.open(directory / "k", create=True)
        self.addCleanup(self.keyring.close)
        self.keyring.add("alice", expires=None, now=1)
        self.clock = Clock()
        self.counts = Counts(cast(Any, self.clock))
        queue = KeyringQueue(self.keyring, self.clock, execute)
        self.usage = UsageRecord(self.clock, queue, self.counts, lambda: 86_400.0 * 3 + 5)

    def start(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.usage.start(Posture.FILTERED)))

    def test_the_posture_is_written_at_once_and_uses_once_a_minute(self) -> None:
        """A number and a day, no time of day; what is left is written when the bridge stops."""
        self.start()
        self.assertEqual(self.keyring.setting(POSTURE), "filtered")
        for _ in range(2):
            self.counts.opened("alice", lambda: None)
        self.assertEqual(self.keyring.get("alice").connections, 0)
        self.clock.advance(60)
        self.assertEqual((self.keyring.get("alice").connections, self.keyring.get("alice").last_used), (2, 3))
        self.counts.opened("alice", lambda: None)
        self.successResultOf(Deferred.fromCoroutine(self.usage.stop()))
        self.assertEqual(self.keyring.get("alice").connections, 3)
        self.successResultOf(Deferred.fromCoroutine(self.usage.stop()))

    def test_what_the_keyring_cannot_take_it_gets_the_next_time(self) -> None:
        """A fault is logged; that another program holds the file is not."""
        self.start()
        self.counts.opened("alice", lambda: None)
        count = self.keyring.count
        for error, logged in ((KeyringUnreadable(Path("/k"), "disk full"), 1), (KeyringLocked(Path("/k")), 0)):

            def refuses(*_: Any, error: Exception = error) -> None:
                raise error

            self.patch(self.keyring, "count", refuses)
            with capturedLogs() as logs:
                self.clock.advance(60)
            told = [it for it in logs if "cannot record the posture" in str(formatEvent(it))]
            self.assertEqual(len(told), logged, error)
        self.patch(self.keyring, "count", count)
        self.clock.advance(60)
        self.assertEqual(self.keyring.get("alice").connections, 1)


class ChooseGateTests(TestCase):
    """Which gate a door gets, of a process without the capability."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.patch(choose_gate, "may_administer_network", lambda: False)
        self.service = str(self.directory / "gate.sock")

    def chosen(self, posture: Posture, any_posture: bool = False) -> Deferred[Entrance]:
        door = Door("127.0.0.1", free_port(), posture)
        listener = Listener(reactor, door.port)
        return Deferred.fromCoroutine(
            find_gate(reactor, self.service, door, any_posture, listener, self.directory / "state")
        )

    async def test_without_a_service_a_filter_guards_a_filtered_port(self) -> None:
        """Also where no posture was named; knocks are not judged then."""
        for posture, any_posture in ((Posture.FILTERED, False), (Posture.CLOSED, True)):
            entrance = await self.chosen(posture, any_posture)
            self.assertIs(entrance.door.posture, Posture.FILTERED)
            self.assertIsInstance(entrance.make_gate(lambda syns: [False] * len(syns)), FilterGate)
            self.assertIn("judging a knock needs CAP_NET_ADMIN", entrance.no_knocks)

    async def test_a_posture_that_no_filter_has_needs_the_service(self) -> None:
        """Nor does a filter take the place of a service that is there and does not answer."""
        await self.assertFailure(self.chosen(Posture.CLOSED), LacksPower)
        Path(self.service).touch()
        error = await self.assertFailure(self.chosen(Posture.FILTERED), LacksPower)
        self.assertIn("systemctl enable --now torknock-gate.socket", str(error))

    async def test_a_service_that_answers_guards_the_port(self) -> None:
        """Knocks are judged where that does not show."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.service)
            listening.listen()
            for posture, judged in ((Posture.CLOSED, False), (Posture.FILTERED, True)):
                entrance = await self.chosen(posture)
                self.assertIs(entrance.door.posture, posture)
                self.assertIsInstance(entrance.make_gate(lambda syns: [False] * len(syns)), SteppedGate)
                self.assertEqual(entrance.no_knocks == "", judged)
