"""What a client sends to a bridge that does not let it in, and to what answers in its stead."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.bridge import GREETING, HiddenService, connected
from tests.support.capture import Capture
from tests.support.dialers import DialerOf
from tests.support.knocks import as_it_is
from tests.support.netns import Lab, end
from tests.unit.channel import peer
from torknock.client import rounds
from torknock.client.budget import PORTS, SYNS
from torknock.client.knocker import Knocker
from torknock.client.memory import Memory, line_id
from torknock.client.reach import Bridges
from torknock.client.round_errors import BridgeSilent
from torknock.client.stealth import StealthKnocker
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import EPOCH, epoch_at, tokens

reactor: Any = _reactor

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

LINE = Line(secret=bytes(range(32)), pin=bytes(32))
CLOSED = 444


class DownTests(TestCase):
    """A host that is gone, and one that refuses, while tor asks again as soon as it is told."""

    skip = needs_root
    timeout = 60

    async def test_a_round_in_silence_sends_at_most_11_syns(self) -> None:
        """In silence the kernel sends the SYNs of three sockets at most 11 times; after a RST come two more SYNs."""
        lab = Lab(offloads=False)
        self.addCleanup(lab.close)
        self.patch(rounds, "PAUSES", ((0.0, 0.0), (0.3, 1.0), (0.3, 1.0)))
        bridge, client = lab.host("bridge"), lab.host("client")
        memory = Memory(Path(self.mktemp()).parent)
        self.addCleanup(memory.close)
        knocker = Knocker(DialerOf(client), reactor, lambda: 7.0 * EPOCH, random.SystemRandom(), memory)
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


class Hears(Protocol):
    """Keeps what comes first."""

    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        if not self.heard.called:
            self.heard.callback(data)


class DecoyTests(TestCase):
    """A bridge behind nginx, and a line of which another device has used a token."""

    skip = needs_root or (None if shutil.which("nginx") else "nginx is missing")
    timeout = 60

    def setUp(self) -> None:
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.directory.chmod(0o755)
        (self.directory / "state").mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        shown = peer.certificate(self.bridge.address, key=key)
        (self.directory / "key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + shown.public_bytes(Encoding.PEM)
        )

    def nginx(self, listen: str) -> None:
        """A web server on the bridge's port."""
        (self.directory / "nginx.conf").write_text(
            f"daemon off; pid {self.directory}/pid; error_log {self.directory}/error.log;\n"
            f"events {{}} http {{ access_log off; server {{ {listen} return 200 page; }} }}\n"
        )
        running = self.bridge.popen(["nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")])
        self.addCleanup(end, [running])

    async def connected_past(self, listen: str) -> None:
        """The client is let in by its second token, and the decoy has got a ClientHello."""
        self.nginx(listen)
        service = HiddenService(self.bridge, options={"posture": "decoy"})
        self.addCleanup(service.close)
        now = time.time()
        with service.keyring() as keyring:
            line = keyring.add("alice", expires=None, now=now).line
            keyring.make_known_at("alice", self.bridge.address)
        memory = Memory(self.directory / "state")
        self.addCleanup(memory.close)
        opening = tokens(line.secret, line.bridge_name, epoch_at(now), line.n)
        first = opening[memory.start(line_id(line)) % line.n]
        while str(first) not in self.bridge.run(["nft", "list", "set", "inet", "torknock-443", "tokens"]).stdout:
            await deferLater(reactor, 0.1)
        connected(self.client, self.bridge.address, 443, first).close()
        dialer, chance = DialerOf(self.client), random.SystemRandom()
        knocker = Knocker(dialer, reactor, lambda: now, chance, memory)
        bridges = Bridges(reactor, knocker, StealthKnocker(dialer, reactor, chance), chance)
        with Capture(self.client) as capture:
            made = await bridges.endpoint(line, self.bridge.address, 443).connect(Factory.forProtocol(Hears))
            assert isinstance(made, Hears)
            self.assertEqual(await made.heard, GREETING)
            assert made.transport is not None
            made.transport.loseConnection()
            sent = [packet for packet in capture.tcp(443) if packet.source == self.client.address]
        syns = [packet for packet in sent if packet.opens]
        self.assertEqual([syn.seq for syn in syns][:1], [first])
        self.assertEqual(len(syns), 2)
        said = b"".join(packet.payload for packet in sent if packet.source_port == syns[0].source_port)
        self.assertEqual((said[0], said[5], len(said)), (22, 1, 5 + int.from_bytes(said[3:5])))

    async def test_a_tls_server_with_another_key_is_not_the_bridge(self) -> None:
        """It has another key."""
        await self.connected_past(
            f"listen 443 ssl; ssl_certificate {self.directory}/key.pem; ssl_certificate_key {self.directory}/key.pem;"
        )

    async def test_a_server_that_speaks_http_is_not_the_bridge(self) -> None:
        """It speaks HTTP."""
        await self.connected_past("listen 443;")
