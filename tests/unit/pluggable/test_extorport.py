"""`pluggable.extorport`."""

from __future__ import annotations

import contextlib
import hmac
import socket
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pluggable.arrivals import ORPortFactory
from pluggable.environment import ServerEnvironment
from pluggable.errors import ORPortError
from pluggable.extorport import HANDSHAKE_LIMIT, ExtORPortHandshake, _HandshakeOpening, dial, read_cookie, user_address
from pluggable.relay import EARLY_LIMIT, Half, Links
from pluggable.testing import COOKIE_HEADER, TorExtendedORPort
from tests.support.strategies import pieces

COOKIE, OURS, THEIRS = b"c" * 32, b"n" * 32, b"s" * 32
SERVER_HASH = hmac.digest(COOKIE, b"ExtORPort authentication server-to-client hash" + OURS + THEIRS, "sha256")
CLIENT_HASH = hmac.digest(COOKIE, b"ExtORPort authentication client-to-server hash" + OURS + THEIRS, "sha256")
ABOUT = b"\x00\x01\x00\x0c192.0.2.7:42" + b"\x00\x02\x00\x03rot" + b"\x00\x00\x00\x00"
UNKNOWN, OKAY, DENY = b"\x12\x34\x00\x03abc", b"\x10\x00\x00\x00", b"\x10\x01\x00\x00"
TOR_SAYS = b"\x07\x01\x00" + SERVER_HASH + THEIRS + b"\x01" + UNKNOWN + OKAY + b"early"


def handshake(cookie: bytes = COOKIE) -> ExtORPortHandshake:
    """One that says `ABOUT`."""
    return ExtORPortHandshake(cookie, OURS, "rot", "192.0.2.7:42")


class ExtORPortHandshakeTests(SynchronousTestCase):
    """`ExtORPortHandshake`."""

    @given(pieces(TOR_SAYS))
    def test_answers_are_the_same_however_tor_cuts_its_bytes(self, heard: list[bytes]) -> None:
        """TCP has no messages: one octet at a time or all at once must end the same."""
        machine = handshake()
        said = b"".join(machine.feed(piece) for piece in heard)
        self.assertEqual(said, b"\x01" + OURS + CLIENT_HASH + ABOUT)
        self.assertTrue(machine.done)
        self.assertEqual(machine.rest, b"early")

    def test_what_tor_must_not_say_is_refused(self) -> None:
        """Another cookie, no types at all, no SAFE_COOKIE, types without end, a refusal, a denial."""
        for said in (
            b"\x01\x00" + bytes(32) + THEIRS,
            b"\x00",
            b"\x02\x00",
            b"\x02" * 256,
            b"\x01\x00" + SERVER_HASH + THEIRS + b"\x00",
            b"\x01\x00" + SERVER_HASH + THEIRS + b"\x02",
            b"\x01\x00" + SERVER_HASH + THEIRS + b"\x01" + DENY,
        ):
            self.assertRaises(ORPortError, handshake().feed, said)

    def test_a_tor_that_offers_no_authentication_type_is_refused_at_once(self) -> None:
        """The empty list is a list; it is not waited for."""
        self.assertRaises(ORPortError, handshake().feed, b"\x00")

    def test_a_list_of_255_authentication_types_is_read_and_no_longer_one(self) -> None:
        """A port of another program may never end it."""
        machine = handshake()
        self.assertEqual(machine.feed(b"\x02" * 254 + b"\x01"), b"")
        self.assertEqual(machine.feed(b"\x00"), b"\x01" + OURS)
        machine = handshake()
        machine.feed(b"\x01" * 255)
        self.assertRaises(ORPortError, machine.feed, b"\x01")

    @given(st.binary(max_size=400), st.integers(0, len(TOR_SAYS)))
    def test_any_bytes_are_waited_for_or_refused(self, noise: bytes, after: int) -> None:
        """Noise at any point never raises anything but `ORPortError`."""
        with contextlib.suppress(ORPortError):
            handshake().feed(TOR_SAYS[:after] + noise)

    def test_an_unknown_client_is_not_made_up(self) -> None:
        """Without USERADDR tor counts it all the same."""
        machine = ExtORPortHandshake(COOKIE, OURS, "rot", None)
        said = machine.feed(TOR_SAYS)
        self.assertEqual(said[65:], b"\x00\x02\x00\x03rot" + b"\x00\x00\x00\x00")


class CookieTests(SynchronousTestCase):
    """`read_cookie`."""

    def test_a_cookie_is_read_from_behind_its_header(self) -> None:
        """The 32 octets behind the header."""
        path = Path(self.mktemp())
        path.write_bytes(b"! Extended ORPort Auth Cookie !\x0a" + COOKIE)
        self.assertEqual(read_cookie(path), COOKIE)

    def test_what_is_no_cookie_is_refused(self) -> None:
        """Missing, of another length, with another header."""
        path = Path(self.mktemp())
        self.assertRaises(ORPortError, read_cookie, path)
        for content in (b"", b"! Extended ORPort Auth Cookie !\x0a" + COOKIE[:-1], b"x" * 64):
            path.write_bytes(content)
            self.assertRaises(ORPortError, read_cookie, path)


class DialTests(SynchronousTestCase):
    """`dial`."""

    def test_what_tor_says_before_the_link_is_joined_is_kept(self) -> None:
        """In the same piece as the end of the introduction, and after it."""
        half = Half(_HandshakeOpening(handshake()))
        half.makeConnection(Pausing())
        for said in (TOR_SAYS, b" and", b" more"):
            half.dataReceived(said)
        self.assertEqual(half.opening.rest, b"early and more")

    def test_without_a_cookie_the_extended_orport_is_not_dialled(self) -> None:
        """Nor the plain one: tor would not know who comes."""
        environment = ServerEnvironment(
            Path("/"), True, ("rot",), "203.0.113.1", None, or_port=("127.0.0.1", 1),
            extended_or_port=("127.0.0.1", 2), auth_cookie_file=None,
        )  # fmt: skip
        reactor = MemoryReactorClock()
        dialling = Deferred.fromCoroutine(dial(reactor, environment, "rot", None))
        self.assertIn("no cookie", str(self.failureResultOf(dialling, ORPortError).value))
        self.assertEqual(reactor.tcpClients, [])


class UserAddressTests(SynchronousTestCase):
    """`user_address`."""

    def test_each_address_family_is_written_as_tor_reads_it(self) -> None:
        """IPv6 in brackets, IPv4 in IPv6's clothes undressed, no scope."""
        self.assertEqual(user_address("192.0.2.7", 42), "192.0.2.7:42")
        self.assertEqual(user_address("2001:db8::7", 42), "[2001:db8::7]:42")
        self.assertEqual(user_address("::ffff:192.0.2.7", 42), "192.0.2.7:42")
        self.assertEqual(user_address("fe80::1%eth0", 42), "[fe80::1]:42")


class Pausing(StringTransport):
    """A link that remembers whether it was cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class ORPortFactoryTests(SynchronousTestCase):
    """`ORPortFactory`."""

    def setUp(self) -> None:
        self.cookie = Path(self.mktemp())
        self.cookie.write_bytes(COOKIE_HEADER + COOKIE)
        self.reactor, self.links = MemoryReactorClock(), Links()

    def make_factory(self, extended: bool = True) -> None:
        environment = ServerEnvironment(
            Path("/"), True, ("rot",), "203.0.113.1", None, or_port=("127.0.0.1", 1),
            extended_or_port=("127.0.0.1", 2) if extended else None, auth_cookie_file=self.cookie if extended else None,
        )  # fmt: skip
        self.factory = ORPortFactory(self.reactor, environment, "rot", self.links)

    def arrive(self, extended: bool = True, client: IAddress | None = IPv4Address("TCP", "192.0.2.7", 42)) -> Half:  # noqa: B008
        self.make_factory(extended)
        half = self.factory.buildProtocol(client)
        self.client = Pausing()
        half.makeConnection(self.client)
        return half

    def held(self) -> tuple[Half, Deferred[Half | None]]:
        """A client that a transport introduces by itself, and what it learns of that."""
        self.make_factory()
        arrival = self.factory.arrival()
        self.client = Pausing()
        arrival.link.makeConnection(self.client)
        return arrival.link, Deferred.fromCoroutine(arrival.introduce(None))

    def tor(self) -> tuple[Any, Pausing]:
        """tor's end of the newest link to it."""
        _host, self.port, factory, _timeout, self.bound_to = self.reactor.tcpClients[-1]
        protocol: Any = factory.buildProtocol(None)
        transport = Pausing()
        protocol.makeConnection(transport)
        return protocol, transport

    def introduce(self, first: bytes = b"welcome") -> tuple[Any, Pausing]:
        """Be a tor that takes the client and says *first*; what it was told is cleared."""
        return self.introduced(*self.tor(), first)

    def introduced(self, protocol: Any, transport: Pausing, first: bytes) -> tuple[Any, Pausing]:
        """`introduce`, for a link that is there."""
        tor = TorExtendedORPort(COOKIE, THEIRS)
        to_send = tor.greeting()
        while not tor.accepted:
            protocol.dataReceived(to_send)
            to_send = tor.feed(transport.value())
            transport.clear()
        protocol.dataReceived(to_send + first)
        return protocol, transport

    def test_no_payload_reaches_tor_before_its_okay(self) -> None:
        """The client is paused until tor has taken it; what has come all the same is handed on then."""
        half = self.arrive()
        self.assertEqual(self.client.producerState, "paused")
        half.dataReceived(b"hello")
        _protocol, transport = self.introduce()
        self.assertEqual((transport.value(), self.client.value()), (b"hello", b"welcome"))
        self.assertEqual(self.client.producerState, "producing")
        half.dataReceived(b"more")
        self.assertEqual(transport.value(), b"hellomore")
        self.assertEqual((self.port, self.bound_to), (2, None))

    def test_the_plain_port_hears_payload_alone(self) -> None:
        """tor without an Extended ORPort."""
        half = self.arrive(extended=False)
        _protocol, transport = self.tor()
        half.dataReceived(b"hello")
        self.assertEqual((self.port, transport.value()), (1, b"hello"))

    def refuse(self) -> None:
        factory: Any = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def test_a_client_is_cut_when_tor_fails(self) -> None:
        """There is no way round the Extended ORPort, and the log says why, without the client's address."""
        failures = {
            "refused": self.refuse,
            "denied": lambda: self.tor()[0].dataReceived(TOR_SAYS),
            "silent": lambda: self.reactor.advance(HANDSHAKE_LIMIT),
        }
        for name, fail in failures.items():
            with self.subTest(name), capturedLogs() as events:
                half, introducing = self.held()
                fail()
                self.assertIsNone(self.successResultOf(introducing))
                self.assertTrue(self.client.aborted)
                half.connectionLost()
                self.assertEqual(len([event for event in events if "turned away" in event["log_format"]]), 1)
                self.assertEqual(len(self.links), 0)
                self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_tor_that_hangs_up_on_a_client_is_noticed(self) -> None:
        """Unless it has said something, or the client left first."""
        for said, leaves, hung_up in (
            (b"", "tor", True),
            (b"", "FIN", True),
            (b"cell", "tor", False),
            (b"", "client", False),
        ):
            with self.subTest(said=said, leaves=leaves):
                half, introducing = self.held()
                protocol, _transport = self.introduce(b"")
                if said:
                    protocol.dataReceived(said)
                if leaves == "FIN":
                    protocol.readConnectionLost()
                elif leaves == "tor":
                    protocol.connectionLost(Failure(ConnectionDone()))
                half.connectionLost()
                tor = self.successResultOf(introducing)
                assert tor is not None
                self.assertEqual(tor.hung_up, hung_up)

    def test_a_client_that_leaves_first_is_no_fault_of_tors(self) -> None:
        """Nothing is logged, and tor is left alone."""
        with capturedLogs() as events:
            half, introducing = self.held()
            half.connectionLost()
            self.failureResultOf(introducing, CancelledError)
        self.assertEqual([event for event in events if "turned away" in event["log_format"]], [])
        self.assertEqual((len(self.links), self.reactor.getDelayedCalls()), (0, []))

    def test_the_cookie_is_read_anew_for_each_client(self) -> None:
        """tor makes a new one when it starts."""
        self.cookie.write_bytes(b"")
        with capturedLogs():
            self.arrive()
        self.assertTrue(self.client.aborted)
        self.assertEqual(self.reactor.tcpClients, [])
        self.cookie.write_bytes(COOKIE_HEADER + COOKIE)
        self.arrive()
        self.introduce()
        self.assertFalse(self.client.aborted)

    def probed(self) -> Deferred[None]:
        self.arrive()
        self.introduce()
        return Deferred.fromCoroutine(self.factory.probe())

    def test_a_tor_that_takes_clients_is_told_by_a_link_of_ours(self) -> None:
        """It is left open for a moment, and nothing is left of it."""
        probing = self.probed()
        _protocol, transport = self.introduce(b"")
        self.assertNoResult(probing)
        self.reactor.advance(1)
        self.successResultOf(probing)
        self.assertTrue(transport.aborted)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_tor_that_takes_none_is_told_too(self) -> None:
        """It closes at once, or does not answer."""
        probing = self.probed()
        protocol, _transport = self.introduce(b"")
        protocol.connectionLost(Failure(ConnectionDone()))
        self.reactor.advance(1)
        self.failureResultOf(probing, ORPortError)
        probing = self.probed()
        self.reactor.advance(HANDSHAKE_LIMIT)
        self.failureResultOf(probing, ORPortError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_tor_that_has_moved_is_found(self) -> None:
        """It proves itself by the cookie; another program that listens is asked once in a while, and told nothing."""
        self.server()
        moved = self.server()
        probing = self.probed()
        self.refuse()
        while not probing.called:
            protocol, transport = self.tor()
            if self.port == moved:
                self.introduced(protocol, transport, b"")
            else:
                protocol.dataReceived(b"SSH-2.0-OpenSSH\r\n" * 20)
                self.assertEqual(transport.value(), b"")
                protocol.connectionLost(Failure(ConnectionDone()))
            self.reactor.advance(1)
        self.successResultOf(probing)
        self.factory.buildProtocol(None).makeConnection(Pausing())
        self.introduce()
        self.assertEqual(self.port, moved)

    def test_a_tor_that_is_nowhere_is_refused(self) -> None:
        """With the reason of the port that it named."""
        other = self.server()
        probing = self.probed()
        self.refuse()
        for _ in range(2**16):  # other programs' ports come and go
            if not probing.called:
                self.refuse()
        self.failureResultOf(probing, ConnectionRefusedError)
        before = len(self.reactor.tcpClients)
        probing = Deferred.fromCoroutine(self.factory.probe())
        self.refuse()
        self.failureResultOf(probing, ConnectionRefusedError)
        self.assertEqual([each[1] for each in self.reactor.tcpClients[before:]].count(other), 0)

    def server(self) -> int:
        """The port of a program of this user's."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        return int(listening.getsockname()[1])

    def test_what_waits_for_tor_is_bounded(self) -> None:
        """A transport that does not pause may not fill our memory."""
        half = self.arrive()
        with capturedLogs():
            half.dataReceived(bytes(EARLY_LIMIT + 1))
        self.assertTrue(self.client.aborted)

    def test_a_client_that_leaves_early_leaves_nothing(self) -> None:
        """The link to tor is given up with it."""
        half = self.arrive()
        _protocol, transport = self.tor()
        half.connectionLost()
        self.assertTrue(transport.aborted)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_an_address_of_ipv6_and_none_are_taken(self) -> None:
        """Whatever the transport knows of its client."""
        for address in (IPv6Address("TCP", "::ffff:192.0.2.7", 42), None):
            self.arrive(client=address)
            self.introduce()
            self.assertEqual(self.client.value(), b"welcome")
