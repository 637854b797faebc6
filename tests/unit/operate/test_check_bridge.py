"""Tests of `torknock.operate.check_bridge`: what is said of what was seen."""

from __future__ import annotations

import itertools
import secrets
import shutil
import tempfile
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

from click.testing import CliRunner
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from tests.support.own_tor import OwnTor, free_port
from tests.support.reactor import reactor
from torknock.cli import torknock
from torknock.client.knocker import TokensSpent
from torknock.client.round_errors import BridgeSilent, NotTheBridge, WrongPeer
from torknock.errors import TorknockError
from torknock.interfaces import CannotKnock
from torknock.kernel.proc import is_served
from torknock.operate.check_bridge import TIMEOUT, Reply, check, check_as_stranger, clocks, stands_out, whose
from torknock.operate.finding import Finding, State, exit_status
from torknock.protocol.bridge_line import BridgeLine, Line
from torknock.tor.link import Relay

LINE = BridgeLine(IPv4Address("192.0.2.7"), 443, "A" * 40, Line(b"s" * 32, b"p" * 32))


@implementer(IStreamClientEndpoint)
class Closed:
    """A bridge that a line does not open, because of *error*."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return fail(self._error)


class FindingTests(SynchronousTestCase):
    """Pure judgements."""

    def test_a_port_like_its_neighbours_does_not_stand_out(self) -> None:
        """Whatever they do; and an open one is nothing special."""
        for reply in Reply:
            self.assertEqual(stands_out(reply, [reply] * 3).state, State.OK)
            self.assertEqual(stands_out(Reply.ACCEPTED, [reply] * 3).state, State.OK)

    def test_a_port_unlike_its_neighbours_stands_out(self) -> None:
        """And the posture that fits is named."""
        answer = stands_out(Reply.REFUSED, [Reply.SILENT] * 3)
        self.assertEqual(answer.state, State.NOT_OK)
        self.assertIn("posture=filtered", answer.remedy)
        self.assertIn("posture=closed", stands_out(Reply.SILENT, [Reply.REFUSED] * 3).remedy)

    def test_neighbours_that_differ_say_nothing(self) -> None:
        """It could not be found out."""
        for first, second in itertools.permutations(Reply, 2):
            self.assertEqual(stands_out(Reply.REFUSED, [first, second, second]).state, State.UNKNOWN)

    def test_the_tor_behind_the_port_is_told_by_its_fingerprint(self) -> None:
        """The fingerprint is proved, another's, not proved, or not asked for; it is never quoted."""
        nameless = BridgeLine(LINE.address, LINE.port, None, LINE.line)
        for relay, line, state in (
            (Relay("A" * 40), LINE, State.OK),
            (Relay("B" * 40), LINE, State.NOT_OK),
            (Relay(None), LINE, State.NOT_OK),
            (Relay("B" * 40), nameless, State.OK),
        ):
            answer = whose(relay, line, 1)
            self.assertEqual(answer.state, state)
            self.assertNotIn("AAAA", answer.why)
        self.assertIn("not verified", whose(Relay("B" * 40), nameless, 1).why)

    def test_a_clock_that_is_right_is_not_mentioned(self) -> None:
        """Of another it is said which way it is wrong."""
        self.assertEqual(clocks(0), [])
        for minutes, said in ((15, "about 15 minutes behind"), (-20, "about 20 minutes ahead of")):
            [answer] = clocks(minutes)
            self.assertEqual((answer.state, said in answer.why), (State.NOT_OK, True))


class CheckTests(SynchronousTestCase):
    """The whole, on a network in memory that answers nobody."""

    def test_only_the_line_is_tried(self) -> None:
        """Nothing is sent but by the endpoint that knocks."""
        memory = MemoryReactorClock()
        checking = check(cast(Any, memory), LINE, Closed(TokensSpent()), int)
        answers = self.successResultOf(Deferred.fromCoroutine(checking))
        self.assertEqual(memory.tcpClients, [])
        self.assertEqual([answer.name for answer in answers], ["line", "tor"])

    def test_a_stranger_connects_to_four_ports_once_each(self) -> None:
        """It connects to the bridge's port and to three others, once each, with nothing of the line."""
        memory = MemoryReactorClock()
        checking = Deferred.fromCoroutine(check_as_stranger(cast(Any, memory), LINE, secrets.SystemRandom()))
        hosts, ports, _factories, timeout, _bind = zip(*memory.tcpClients, strict=True)
        self.assertEqual((set(hosts), set(timeout), len(set(ports))), ({"192.0.2.7"}, {TIMEOUT}, 4))
        self.assertEqual((ports[0], all(10_000 <= port < 32_768 for port in ports[1:])), (443, True))
        self.assertNoResult(checking)
        for client in memory.tcpClients:
            client[2].clientConnectionFailed(cast(Any, None), Failure(ConnectionRefusedError()))
        answers = self.successResultOf(checking)
        self.assertEqual([(one.name, one.state) for one in answers], [
            ("stranger", State.OK), ("other ports", State.OK),
        ])  # fmt: skip

    def test_why_a_line_does_not_open(self) -> None:
        """A bridge that refuses is a fault; a host that cannot knock, or has no token left, finds nothing out."""
        for error, state in (
            (BridgeSilent("it refused", refused=True, again_in=99.0), State.NOT_OK),
            (NotTheBridge(WrongPeer("it speaks HTTP"), again_in=99.0), State.NOT_OK),
            (CannotKnock("this process lacks CAP_NET_ADMIN"), State.UNKNOWN),
            (TokensSpent(), State.UNKNOWN),
            (ConnectionRefusedError(), State.UNKNOWN),
            (TorknockError("something else"), State.UNKNOWN),
        ):
            memory = MemoryReactorClock()
            checking = Deferred.fromCoroutine(check(cast(Any, memory), LINE, Closed(error), int))
            memory.advance(100)
            answers = {answer.name: answer for answer in self.successResultOf(checking)}
            self.assertEqual((answers["line"].state, answers["tor"].state), (state, State.UNKNOWN))
            self.assertNotIn("192.0.2.7", " ".join(answer.why for answer in answers.values()))

    def test_not_ok_decides_the_exit_status_before_unknown(self) -> None:
        """What is wrong counts more than what is not known."""
        self.assertEqual(exit_status([State.OK]), 0)
        self.assertEqual(exit_status([State.OK, State.UNKNOWN]), 2)
        self.assertEqual(exit_status([State.UNKNOWN, State.NOT_OK, State.OK]), 1)


class _OtherService(Protocol):
    """A service that is not tor."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.transport.loseConnection()


class DecoyTests(TestCase):
    """A port on which something else answers."""

    async def test_a_decoy_is_no_tor(self) -> None:
        """A stranger is let in, and asks what answers whether it is tor: what hangs up is not."""
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            Factory.forProtocol(_OtherService)
        )
        self.addCleanup(listening.stopListening)
        line = BridgeLine(IPv4Address("127.0.0.1"), listening.getHost().port, None, LINE.line)
        answers = await check_as_stranger(reactor, line, secrets.SystemRandom())
        self.assertEqual(answers[0].state, State.OK, answers)
        self.assertIn("decoy", answers[0].why)
        self.assertEqual(answers[1].state, State.OK)


class TorTests(TestCase):
    """A real tor, at its ORPort on loopback: what is behind a bridge's port, without the bridge."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        self.port = free_port()
        self.tor = OwnTor(directory / "tor", "BridgeRelay 1", f"ORPort 127.0.0.1:{self.port}", "Address 127.0.0.1")
        self.addCleanup(self.tor.stop)
        self.tor.start()

    async def fingerprint(self) -> str:
        """The tor's own, once it listens."""
        while not ((path := self.tor.data / "fingerprint").exists() and len(path.read_text().split()) == 2):
            await deferLater(reactor, 0.05)
        while not is_served("127.0.0.1", self.port):
            await deferLater(reactor, 0.05)
        return path.read_text().split()[1]

    async def checked(self, fingerprint: str | None, port: int) -> Finding:
        """What is found of the tor behind *port*, by a line with *fingerprint* that opens it."""
        line = BridgeLine(IPv4Address("127.0.0.1"), port, fingerprint, LINE.line)
        opened, behind = await check(reactor, line, TCP4ClientEndpoint(reactor, "127.0.0.1", port), int)
        self.assertEqual((opened.name, opened.state), ("line", State.OK))
        return behind

    async def test_tor_behind_the_port_proves_the_fingerprint_in_the_line(self) -> None:
        """Another tor does not, and a line without a fingerprint cannot tell."""
        fingerprint = await self.fingerprint()
        for named, state, told in (
            (fingerprint, State.OK, "proves the fingerprint in the line"),
            ("B" * 40, State.NOT_OK, "another tor than the one that the line names"),
            (None, State.OK, "its identity was not verified"),
        ):
            found = await self.checked(named, self.port)
            self.assertIs(found.state, state, found)
            self.assertIn(told, found.why)

    async def test_a_stranger_whom_tor_answers_finds_the_bridge(self) -> None:
        """It is not hidden."""
        await self.fingerprint()
        line = BridgeLine(IPv4Address("127.0.0.1"), self.port, None, LINE.line)
        [stranger, _] = await check_as_stranger(reactor, line, secrets.SystemRandom())
        self.assertIs(stranger.state, State.NOT_OK)
        self.assertIn("tor itself answers a stranger", stranger.why)

    async def test_a_service_that_is_not_tor_is_reported(self) -> None:
        """Whether it answers something else, or hangs up."""
        for kind in (_OtherService, _HangsUp):
            listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(kind))
            found = await self.checked(None, listening.getHost().port)
            await listening.stopListening()
            self.assertIs(found.state, State.NOT_OK)
            self.assertEqual(found.remedy, "on the bridge: torknock doctor bridge")


class _HangsUp(Protocol):
    """A service that ends each connection."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class CommandTests(SynchronousTestCase):
    """`torknock check`: its first argument is a bridge line if it is no verb."""

    def test_what_is_no_verb_is_a_line(self) -> None:
        """In quotation marks, without them, from stdin; a fault in it is told in one line that does not quote it."""
        for words, stdin in (
            (["check", "Bridge torknock 192.0.2.7:443 key=c2VjcmV0"], ""),
            (["check", "torknock", "192.0.2.7:443", "key=c2VjcmV0"], ""),
            (["check", "--json", "-"], "Bridge torknock 192.0.2.7:443 key=c2VjcmV0\n"),
            (["check", "line", "-"], "torknock 192.0.2.7:443 key=c2VjcmV0"),
            (["check", "-"], "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")),
        ):
            done = CliRunner().invoke(torknock, words, input=stdin)
            self.assertEqual((done.exit_code, done.output.count("\n")), (1, 1), done.output)
            self.assertNotIn("c2VjcmV0", done.output)
            self.assertIn("torknock: ", done.output)

    def test_a_verb_of_check_is_no_bridge_line(self) -> None:
        """`check path` asks for what it always asked for, and help is help."""
        for words, said in (
            (["check", "path"], "IP:PORT"),
            (["check", "--help"], "path"),
            (["check"], "path"),
            (["check", "path", "--help"], "reflect"),
        ):
            self.assertIn(said, CliRunner().invoke(torknock, words).output)
