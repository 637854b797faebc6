"""Tests of `torknock dial` as it is run: another process, an unprivileged user with CAP_NET_ADMIN and nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import TimeoutError
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.capture import Capture, Packet
from tests.support.knocks import as_it_is
from tests.support.loaded import MAY_LOAD, PACKAGES, ours, packages, recording
from tests.support.netns import Lab, end
from torknock.client.knocker import Knocker
from torknock.client.memory import Memory
from torknock.client.remote_dialer import JOIN, RESTART, RemoteDialer
from torknock.client.round_errors import BridgeSilent
from torknock.client.stealth import StealthKnocker
from torknock.interfaces import CannotKnock, IPrivilegedDialer, Slipped
from torknock.protocol.bridge_line import Channel, Line, Scheme
from torknock.protocol.knock import isn
from torknock.protocol.token import EPOCH, tokens

reactor: Any = _reactor

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

ROOT = Path(__file__).parent.parent.parent
ISN, PORT, CLOSED = 0xC0FFEE42, 443, 444
SERVICE, CLIENT, OTHER = 64_001, 64_002, 64_003
"""Users that this host does not know; each is in the group of the same number."""

PRIVILEGE = [
    "setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
]  # fmt: skip
"""What the unit leaves of the powers of root."""

KNOCK = """
import json, sys
from twisted.internet import reactor
from twisted.internet.task import react
from torknock.client.remote_dialer import RemoteDialer
from torknock.kernel.capability import may_administer_network

async def knock(reactor):
    assert not may_administer_network()
    path, host, port, isn = sys.argv[1:]
    try:
        with await RemoteDialer(reactor, path).dial(host, int(port), int(isn)) as connected:
            connected.setblocking(True)
            print(json.dumps([connected.recv(100).decode(), connected.getpeername()[0]]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))

from twisted.internet.defer import Deferred
react(lambda reactor: Deferred.fromCoroutine(knock(reactor)))
"""

FLOOD = """
import socket, sys, time
path, *hosts = sys.argv[1:]
held, number = [], 0
while True:
    number += 1
    asking = socket.socket(socket.AF_UNIX)
    asking.setblocking(False)
    try:
        asking.connect(path)
        asking.send(f"dial {hosts[number % len(hosts)]} 443 7\\n".encode())
        held.append(asking)
    except OSError:
        asking.close()
        time.sleep(0.001)
    if len(held) > 200:
        for each in held[:100]:
            each.close()
        del held[:100]
    if number == 1000:
        print("begun", flush=True)
"""
"""A user who dials as often as the service lets it, and keeps as many dials waiting as it can."""

KNOCKS = """
import json, sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from torknock.client.remote_dialer import RemoteDialer

async def knock(reactor):
    said = []
    for isn in range(1, 21):
        try:
            (await RemoteDialer(reactor, sys.argv[1]).dial(sys.argv[2], 443, isn)).close()
            said.append("ok")
        except Exception as error:
            said.append(str(error))
    print(json.dumps(said))

react(lambda reactor: Deferred.fromCoroutine(knock(reactor)))
"""


def as_user(uid: int, *command: str) -> list[str]:
    """The command of a user who is in the group of the service's guests."""
    return [
        "setpriv", f"--reuid={uid}", f"--regid={uid}", "--groups=daemon", "--no-new-privs", "--bounding-set=-all",
        *command,
    ]  # fmt: skip


class Case(TestCase):
    """A bridge that listens, and a client where the service runs; this process is root, and asks it."""

    skip = needs_root
    timeout = 120
    torknock: tuple[str, ...] = (sys.executable, "-m", "torknock")
    """The command that the service is a verb of."""

    def setUp(self) -> None:
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
        self.addresses = (self.bridge.address, self.bridge.address6)
        self.listeners: dict[str, socket.socket] = {}
        for address, family in zip(self.addresses, (socket.AF_INET, socket.AF_INET6), strict=True):
            with self.bridge.enter():
                self.listeners[address] = socket.create_server((address, PORT), family=family, backlog=1024)
            self.addCleanup(self.listeners[address].close)
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.directory.chmod(0o777)
        self.path = str(self.directory / "dial.sock")
        self.capture = Capture(self.client)
        self.addCleanup(self.capture.stop)
        self.dialer: IPrivilegedDialer = RemoteDialer(reactor, self.path)

    async def served(self, *options: str) -> subprocess.Popen[Any]:
        """The service, once it listens as its unit's socket does: open to everybody."""
        command = [*PRIVILEGE, *self.torknock, "dial", "--socket", self.path, *options]
        self.log = self.directory / "log"
        with self.log.open("a") as log:
            service = self.client.popen(command, cwd=ROOT, stderr=log)
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.path)
                break
            except OSError:
                self.assertIsNone(service.poll(), self.log.read_text())
                await deferLater(reactor, 0.05)
        os.chmod(self.path, 0o666)  # noqa: S103  as in torknock-dial.socket
        return service

    async def sent_to(self, host: str) -> None:
        """Wait for a SYN; the reactor goes on."""
        while host not in {syn.destination for syn in self.syns()}:
            await deferLater(reactor, 0.02)

    def syns(self) -> list[Packet]:
        """Those that the client has sent."""
        return [packet for packet in self.capture.tcp() if packet.opens]


class DialTests(Case):
    """What is dialled."""

    async def test_a_client_without_privilege(self) -> None:
        """It reads from the bridge, and the SYN on the wire has the ISN; who is not of the group learns what to do."""
        await self.served("--group", "daemon")
        for group, host in (("daemon", self.addresses[0]), ("daemon", self.addresses[1]), (str(CLIENT), "192.0.2.1")):
            command = ["setpriv", f"--reuid={CLIENT}", f"--regid={CLIENT}", f"--groups={group}", "--no-new-privs"]
            asking = subprocess.Popen(
                [*command, "--bounding-set=-all", sys.executable, "-c", KNOCK, self.path, host, str(PORT), str(ISN)],
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            if host in self.listeners:
                self.listeners[host].settimeout(60)
                with self.listeners[host].accept()[0] as accepted:
                    accepted.send(b"hello")
            said, _ = asking.communicate(timeout=60)
            if host in self.listeners:
                self.assertEqual(json.loads(said), ["hello", host])
            else:
                kind, text = json.loads(said)
                self.assertEqual((kind, JOIN in text), ("CannotKnock", True))
        self.assertEqual([(syn.destination, syn.seq) for syn in self.syns()], [(host, ISN) for host in self.addresses])
        self.assertEqual(self.log.read_text(), "")

    async def test_the_syn_leaves_from_the_address_that_was_asked_for(self) -> None:
        """The SYN leaves from there; an address that this host has not is an error."""
        await self.served()
        second, second6 = f"198.18.{self.client.number}.3", f"2001:db8:{self.client.number:x}::3"
        self.client.ip(f"address add {second}/24 dev eth0", f"address add {second6}/64 dev eth0 nodad")
        dialer = RemoteDialer(reactor, self.path, second, second6)
        for host in self.addresses:
            (await dialer.dial(host, PORT, ISN)).close()
        with self.assertRaises(CannotKnock) as cannot:
            await RemoteDialer(reactor, self.path, "192.0.2.1").dial(self.bridge.address, PORT, ISN)
        self.assertEqual(cannot.exception.number, errno.EADDRNOTAVAIL)
        self.assertEqual({(syn.source, syn.seq) for syn in self.syns()}, {(second, ISN), (second6, ISN)})

    async def test_the_socket_of_a_dial_that_was_given_up_is_closed(self) -> None:
        """The service closes the socket of a SYN that nobody answered when nobody waits for it any more."""
        service = await self.served()
        before = len(os.listdir(f"/proc/{service.pid}/fd"))
        silent = (self.bridge.silent, self.bridge.silent6)
        dialling = [self.dialer.dial(host, PORT, ISN) for host in silent]
        for host in silent:
            await self.sent_to(host)
        given_up = [each.addTimeout(2.0, reactor) for each in dialling]
        for each in given_up:
            await self.assertFailure(each, TimeoutError)
        while self.client.run(["ss", "-Htn", "state", "syn-sent"]).stdout:
            await deferLater(reactor, 0.05)
        while len(os.listdir(f"/proc/{service.pid}/fd")) > before:
            await deferLater(reactor, 0.05)

    async def test_a_syn_has_the_tsval_that_its_isn_was_chosen_for(self) -> None:
        """A SYN leaves with the TSval that its ISN was chosen for, or the dial slips."""
        await self.served()
        for host in self.addresses:
            good: set[int] = set()
            for _ in range(60):
                try:
                    connected = (await self.dialer.dial_stamped(host, PORT, lambda tsval: tsval)).socket
                except Slipped:
                    continue
                good.add(connected.getsockname()[1])
                connected.close()
                if len(good) == 3:
                    break
            stamped = [syn for syn in self.syns() if syn.destination == host and syn.source_port in good]
            self.assertEqual([syn.tsval == syn.seq for syn in stamped], [True] * 3)


class KnockTests(Case):
    """Both kinds of knocker, which know nothing of the service."""

    async def test_the_syn_has_the_isn_of_a_token(self) -> None:
        """The SYN has the ISN of a token."""
        await self.served()
        memory = Memory(self.directory)
        self.addCleanup(memory.close)
        line = Line(secret=bytes(range(32)), pin=bytes(32))
        knocker = Knocker(self.dialer, reactor, lambda: 7.0 * EPOCH, random.SystemRandom(), memory)
        for host in self.addresses:
            with (await knocker.knock(line, host, PORT, as_it_is)).socket as connected:
                self.assertEqual(connected.getpeername()[0], host)
        opening = tokens(line.secret, line.bridge_name, 7, line.n)
        self.assertEqual([syn.seq in opening for syn in self.syns()], [True, True])

    async def test_the_syn_has_the_isn_that_goes_with_its_tsval(self) -> None:
        """The SYN has the ISN that goes with its TSval."""
        await self.served()
        line = Line(secret=b"Magic secret string", pin=None, scheme=Scheme.KNOCK, channel=Channel.RAW)
        for host, family in zip(self.addresses, (socket.AF_INET, socket.AF_INET6), strict=True):
            knocked = None
            while knocked is None:
                knocker = StealthKnocker(self.dialer, reactor, random.SystemRandom())
                with contextlib.suppress(BridgeSilent):  # on a busy host every SYN of a round may slip
                    knocked = await knocker.knock(line, host, PORT, as_it_is)
                    knocked.socket.close()
            [syn] = [syn for syn in self.syns() if syn.seq == knocked.isn]
            self.assertEqual(syn.seq, isn(line.secret, socket.inet_pton(family, host), PORT, syn.tsval or 0, None))


class FairnessTests(Case):
    """Users of one service."""

    async def test_a_user_does_not_take_it_from_another(self) -> None:
        """While one dials without end, here, to the bridge and where nobody answers, another's dials are all made."""
        await self.served("--group", "daemon")
        flood = subprocess.Popen(
            as_user(CLIENT, sys.executable, "-c", FLOOD, self.path, "127.0.0.1", self.bridge.silent, self.addresses[0]),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.addCleanup(end, [flood])
        assert flood.stdout is not None
        self.assertEqual(await deferToThread(flood.stdout.readline), "begun\n")
        knocks = subprocess.Popen(
            as_user(OTHER, sys.executable, "-c", KNOCKS, self.path, self.addresses[0]),
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, _ = await deferToThread(knocks.communicate, timeout=100)
        self.assertEqual(json.loads(said), ["ok"] * 20)


class ServiceTests(Case):
    """What becomes of the service."""

    async def test_a_dial_ends_with_an_error_when_the_service_is_killed(self) -> None:
        """The dial that it was at ends with an error; the next one finds its successor."""
        service = await self.served()
        dialling = self.dialer.dial(self.bridge.silent, PORT, ISN)
        await self.sent_to(self.bridge.silent)
        service.kill()
        with self.assertRaises(ConnectError) as caught:
            await dialling
        self.assertEqual(caught.exception.osError, errno.ECONNABORTED)
        service.wait()
        with self.assertRaises(CannotKnock):
            await self.dialer.dial(self.bridge.address, PORT, ISN)
        await self.served()
        (await self.dialer.dial(self.bridge.address, PORT, ISN)).close()
        self.assertEqual([syn.destination for syn in self.syns()], [self.bridge.silent, self.bridge.address])

    async def test_a_service_that_does_nothing_is_named_as_the_reason(self) -> None:
        """A service that does nothing is the reason that the client is told; when it goes on, so does the client."""
        service = await self.served()
        service.send_signal(signal.SIGSTOP)
        try:
            with self.assertRaises(ConnectError) as caught:
                await self.dialer.dial(self.bridge.address, PORT, ISN).addTimeout(0.5, reactor)
            self.assertIn(RESTART, str(caught.exception))
        finally:
            service.send_signal(signal.SIGCONT)
        (await self.dialer.dial(self.bridge.address, PORT, ISN + 1)).close()

    async def test_a_service_that_ends_has_loaded_no_more_than_is_listed(self) -> None:
        """It ends well and in silence; both kinds of dial went through it, so no import hides in a function."""
        loaded = self.directory / "loaded"
        self.torknock = tuple(recording(loaded))
        service = await self.served()
        (await self.dialer.dial(self.bridge.address, PORT, ISN)).close()
        with contextlib.suppress(Slipped):  # a busy host
            (await self.dialer.dial_stamped(self.bridge.address, PORT, lambda _tsval: ISN + 1)).socket.close()
        service.terminate()
        while service.poll() is None:
            await deferLater(reactor, 0.05)
        self.assertEqual((service.returncode, self.log.read_text()), (0, ""))
        self.assertEqual(sorted(ours(loaded)), sorted(MAY_LOAD["dial"]))
        self.assertEqual(packages(loaded) - PACKAGES, set())

    async def test_without_the_capability(self) -> None:
        """It does not start, and says why in one line."""
        command = ["setpriv", "--reuid", str(CLIENT), "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
        done = subprocess.run(
            [*command, sys.executable, "-m", "torknock", "dial", "--socket", self.path],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
        self.assertIn("CAP_NET_ADMIN", done.stderr)

    async def test_the_service_outlives_whatever_its_peers_send(self) -> None:
        """Whatever its peers send, the service answers the next honest one, and keeps no descriptor."""
        service = await self.served()
        before = len(os.listdir(f"/proc/{service.pid}/fd"))
        peers = []
        many = b"dial ::1 1 1\n" * 5000
        for said in (b"", b"dial", b"\0" * 70_000, many, b"\xff\n", b"stamped 127.0.0.1 1\nisn x\n"):
            for _ in range(20):
                peer = socket.socket(socket.AF_UNIX)
                peers.append(peer)
                peer.connect(self.path)
                peer.setblocking(False)
                try:
                    peer.send(said)
                    socket.send_fds(peer, [b" "], [peer.fileno(), 0, 1])
                except (BlockingIOError, BrokenPipeError, ConnectionResetError, PermissionError):
                    continue
        for peer in peers:
            peer.close()
        while len(os.listdir(f"/proc/{service.pid}/fd")) > before:
            await deferLater(reactor, 0.05)
        (await self.dialer.dial(self.bridge.address, PORT, ISN)).close()
        self.assertEqual(self.log.read_text(), "")
