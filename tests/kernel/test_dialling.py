"""Bridges that try a client's patience: their answers take seconds, or they let it in and hang up."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.bridge import GREETING, HiddenService
from tests.support.capture import Capture, Control
from tests.support.dialers import DialerOf
from tests.support.middlebox import Middlebox
from tests.support.netns import Lab
from torknock.client.knocker import Knocker
from torknock.client.memory import Memory
from torknock.client.reach import Bridges
from torknock.client.round_errors import BridgeSilent
from torknock.client.stealth import StealthKnocker

reactor: Any = _reactor

ROUND_TRIP = 5.2


class Greeted(Protocol):
    """Fires with what the service says first."""

    transport: Any

    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.transport.abortConnection()
        self.heard.callback(data)


class Ended(Protocol):
    """Fires when the connection is over."""

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class Refusing(HiddenService):
    """One whose service closes every connection at once, as a tor that hibernates."""

    @staticmethod
    def _greet(connection: socket.socket) -> None:
        connection.close()


class DiallingTests(TestCase):
    """Real kernels on both sides, and `torknock server`."""

    skip = None if os.geteuid() == 0 else "network namespaces need root"

    def setUp(self) -> None:
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.client, self.bridge = self.lab.host("client"), self.lab.host("bridge")
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        memory = Memory(Path(directory.name))
        self.addCleanup(memory.close)
        dialer, chance = DialerOf(self.client), secrets.SystemRandom()
        knocker = Knocker(dialer, reactor, time.time, chance, memory)
        self.bridges = Bridges(reactor, knocker, StealthKnocker(dialer, reactor, chance), chance)

    async def way_to(self, kind: type[HiddenService]) -> IStreamClientEndpoint:
        """The way to a bridge with such a service, which has taken the line up."""
        service = await deferToThread(kind, self.bridge)
        self.addCleanup(service.close)
        with service.keyring() as keyring:
            line = keyring.add("alice", expires=None, now=time.time()).line
        await deferToThread(time.sleep, 2)
        return self.bridges.endpoint(line, self.bridge.address, 443)

    async def test_answers_that_take_more_than_five_seconds(self) -> None:
        """One token opens; the kernel's repeated SYNs meet the handshake that the first has begun. TLS follows."""
        way = await self.way_to(HiddenService)
        with Middlebox(self.lab, self.client, self.bridge, delay=ROUND_TRIP / 2), Capture(self.client) as wire:
            greeted: Any = await way.connect(Factory.forProtocol(Greeted))
            self.assertEqual(await greeted.heard, GREETING)
            sent = wire.tcp(443)
        syns = [packet for packet in sent if packet.opens]
        self.assertEqual(len({packet.seq for packet in syns}), 1)
        self.assertGreater(len(syns), 1)
        resets = [packet for packet in sent if packet.control & Control.RST and packet.source == self.bridge.address]
        self.assertEqual(resets, [])

    async def test_one_that_lets_in_and_hangs_up(self) -> None:
        """It is knocked at once, and then let rest, however often tor asks."""
        way = await self.way_to(Refusing)
        with Capture(self.client) as wire:
            ended: Any = await way.connect(Factory.forProtocol(Ended))
            await ended.lost
            for _ in range(20):
                error = await self.assertFailure(way.connect(Factory.forProtocol(Ended)), BridgeSilent)
                self.assertIn("hung up", str(error))
            self.assertEqual(len({packet.seq for packet in wire.tcp(443) if packet.opens}), 1)
