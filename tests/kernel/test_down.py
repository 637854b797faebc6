"""What a bridge that does not let the client in gets to see of it, on the wire."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.support.capture import Capture
from tests.support.knocks import as_it_is
from tests.support.netns import Host, Lab
from torknock.dial import rounds
from torknock.dial.budget import PORTS, SYNS
from torknock.dial.interfaces import IDialer
from torknock.dial.knocking import BridgeSilent, Knocker
from torknock.dial.memory import Memory
from torknock.dial.repair import RepairDialer
from torknock.isn.token import EPOCH
from torknock.line import Line

reactor: Any = _reactor

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

LINE = Line(secret=bytes(range(32)), pin=bytes(32))
CLOSED = 444


@implementer(IDialer)
class Inside:
    """Dials in a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._dialer = RepairDialer(reactor)

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        with self._host.enter():
            return self._dialer.dial(host, port, isn)


class DownTests(TestCase):
    """A host that is gone, and one that refuses, while tor asks again as soon as it is told."""

    skip = needs_root
    timeout = 60

    async def test_a_round(self) -> None:
        """In silence the kernel sends the SYNs of three sockets at most 11 times; after a RST come two more SYNs."""
        lab = Lab(offloads=False)
        self.addCleanup(lab.close)
        self.patch(rounds, "PAUSES", ((0.0, 0.0), (0.3, 1.0), (0.3, 1.0)))
        bridge, client = lab.host("bridge"), lab.host("client")
        memory = Memory(Path(self.mktemp()).parent)
        self.addCleanup(memory.close)
        knocker = Knocker(Inside(client), reactor, lambda: 7.0 * EPOCH, random.SystemRandom(), memory)
        targets = (bridge.silent, bridge.silent6, bridge.address, bridge.address6)

        async def twice(host: str) -> None:
            for _ in range(2):
                with self.assertRaises(BridgeSilent):
                    await knocker.knock(LINE, host, CLOSED, as_it_is)

        with Capture(client) as capture:
            await gatherResults([Deferred.fromCoroutine(twice(host)) for host in targets])
            seen = [packet for packet in capture.tcp() if packet.opens]
        for host in targets:
            syns = [packet for packet in seen if packet.destination == host]
            self.assertEqual(len({syn.source_port for syn in syns}), PORTS)
            self.assertEqual(len({syn.seq for syn in syns}), PORTS)
            if host in (bridge.silent, bridge.silent6):
                self.assertIn(len(syns), range(PORTS + 1, SYNS + 1))
            else:
                self.assertEqual(len(syns), PORTS)
