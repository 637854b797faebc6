"""Tests of torknock.channel.tls and its pump, over a connection in memory; the peers are independent ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer, verify

from tests.support.strategies import pieces
from tests.unit.channel import peer
from tests.unit.channel.wire import Wire
from torknock.channel import tls_server
from torknock.channel.configuration import OPENSSL_CONF
from torknock.channel.hello import BrowserHello, OpenSSLHello
from torknock.channel.interfaces import ChannelFailed, IClientChannel, IServerChannel, NotProved
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import Refusal, ServerTLS
from torknock.protocol.bridge_line import Line

ISN = 0xDEADBEEF
HOST = "192.0.2.7"
LINE = Line(b"s" * 32, peer.PIN)
OTHER = Line(b"o" * 32, peer.PIN)
STRANGER = ec.generate_private_key(ec.SECP256R1())


class Upper(Protocol):
    """Keeps what it is told."""

    transport: Any

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.made = 0
        self.losses: list[Failure] = []

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses.append(reason)


@implementer(IHalfCloseableProtocol)
class Half(Upper):
    """An `Upper` that knows of half-closed connections."""

    ends = ""

    def readConnectionLost(self) -> None:
        self.ends += "r"

    def writeConnectionLost(self) -> None:
        self.ends += "w"


class Greedy(Upper):
    """An `Upper` that pauses its transport whenever it has received something."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.pauseProducing()


class Chance:
    """No chance at all."""

    def __init__(self, pad: int = 3, silence: float = 30.0) -> None:
        self.pad, self.silence = pad, silence
        self.asked: list[tuple[float, float]] = []

    def randint(self, a: int, b: int) -> int:
        self.asked.append((a, b))
        return self.pad

    def randbytes(self, n: int) -> bytes:
        return b"\xaa" * n

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return self.silence


class Scene(SynchronousTestCase):
    """A client's and a server's channel with one clock."""

    def setUp(self) -> None:
        # trial has loaded OpenSSL before a test can say how; `TicketTests` are about that.
        self.patch(tls_server, "sends_tickets", lambda context: False)
        self.clock = Clock()
        self.chance = Chance()
        self.refused: list[Refusal] = []
        self.whose: list[int] = []
        self.there: Upper = Upper()
        self.here: Upper = Upper()
        self.server = ServerTLS(self.clock, peer.PRIVATE_KEY, self.chance)
        self.hello = self.make_hello()
        self.client = ClientTLS(self.clock, self.chance, self.hello)

    def make_hello(self) -> OpenSSLHello | BrowserHello:
        """Whose ClientHello the client has."""
        return OpenSSLHello()

    def accept(self, lines: Sequence[Line] = (LINE,), isn: int = ISN) -> IProtocol:
        self.began = self.clock.seconds()
        return self.accepted(self.server.accept(lines, isn, self.there))

    def accepted(self, made: tuple[IProtocol, Deferred[int]]) -> IProtocol:
        """The lower protocol of *made*; which line is proved is kept, or why none is."""
        lower, proved = made
        proved.addCallbacks(self.whose.append, self.not_proved)
        return lower

    def not_proved(self, failure: Failure) -> None:
        assert isinstance(failure.value, NotProved)
        self.refused.append(Refusal(failure.value.why))

    def open(
        self, server: IProtocol, line: Line = LINE, host: str = HOST, cut: int = 1 << 18
    ) -> tuple[Wire, Deferred[None]]:
        """A client of ours at *server*, until nothing moves."""
        lower, opened = self.client.open(line, ISN, host, self.here)
        wire = Wire(lower, server, cut)
        wire.run()
        return wire, opened

    def both(self, cut: int = 1 << 18) -> Wire:
        """Ours with ours, carried."""
        wire, opened = self.open(self.accept(), cut=cut)
        self.successResultOf(opened)
        return wire

    def knock(
        self, lines: Sequence[Line] = (LINE,), isn: int = ISN, stock: peer.Stock | None = None
    ) -> tuple[Wire, peer.Stock]:
        """A stock TLS client at a server of ours, its handshake done."""
        stock = stock or peer.Stock.client()
        wire = Wire(stock, self.accept(lines, isn))
        wire.run()
        return wire, stock

    def prove(self, stock: peer.Stock, line: Line = LINE, pad: int = 7, isn: int = ISN) -> bytes:
        """The hello of an independent client."""
        return peer.hello(peer.proof(line.secret, line.bridge_name, peer.exported(stock.tls, isn)), pad)

    def answer(self, *names: str, key: ec.EllipticCurvePrivateKey = peer.KEY, days: int = 1) -> peer.Stock:
        """An independent server with a certificate of *key* for *names*."""
        return peer.Stock(peer.server_context(peer.certificate(*names, key=key, days=days), key), server=True)

    def assert_quiet(self) -> None:
        """No timer is left, and nobody is counted as unproven."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.server._unproven), 0)


class InterfaceTests(Scene):
    """The two channels keep their word."""

    def test_interfaces(self) -> None:
        """Each end provides its interface."""
        verify.verifyObject(IClientChannel, self.client)
        verify.verifyObject(IServerChannel, self.server)


class OpenTests(Scene):
    """A client of ours at an independent server."""

    def test_the_hello(self) -> None:
        """The first record is the proof, bound to session and ISN, and its padding; the service's octets follow."""
        stock = self.answer(HOST)
        wire, opened = self.open(stock)
        self.successResultOf(opened)
        self.here.transport.write(b"data")
        wire.run()
        self.assertEqual(stock.heard, [self.prove(stock, pad=3), b"data"])
        self.assertIn((0, 1024), self.chance.asked)
        self.assertEqual(self.here.made, 1)
        self.assert_quiet()

    def test_paddings(self) -> None:
        """The shortest and the longest padding are sent as one record each."""
        for pad in (0, 1024):
            self.chance.pad = pad
            stock = self.answer(HOST)
            self.open(stock)
            self.assertEqual(stock.heard, [self.prove(stock, pad=pad)])

    def test_the_service_answers(self) -> None:
        """What the server says arrives at the upper protocol."""
        stock = self.answer(HOST)
        wire, _ = self.open(stock)
        stock.say(b"hello")
        wire.run()
        self.assertEqual(self.here.heard, [b"hello"])

    def test_names(self) -> None:
        """A certificate is good for the address that was dialled, or for the line's name."""
        for line, host, names in (
            (LINE, "2001:db8::7", ("192.0.2.1", "2001:db8:0::7")),
            (replace(LINE, sni="a.example"), HOST, ("b.example", "a.example")),
        ):
            _, opened = self.open(self.answer(*names), line, host)
            self.successResultOf(opened)

    def assert_refused(self, stock: peer.Stock, reason: str, line: Line = LINE) -> None:
        """*stock* is not taken for the bridge, and never learns anything."""
        wire, opened = self.open(stock, line)
        self.assertEqual(self.failureResultOf(opened, ChannelFailed).value.reason, reason)
        self.assertEqual((stock.heard, stock.ready), ([], False))
        self.assertEqual((self.here.made, self.here.losses), (0, []))
        self.assertFalse(wire.client.connected)
        self.assert_quiet()

    def test_wrong_key(self) -> None:
        """A certificate for the right address with another key is refused before a hello."""
        stock = self.answer(HOST, key=STRANGER)
        self.assert_refused(stock, "its key is not the one that the line's pin names")

    def test_wrong_names(self) -> None:
        """The right key in a certificate for something else is refused."""
        for line in (LINE, replace(LINE, sni="a.example")):
            for names in (("192.0.2.8",), ("b.example",), ("*.a.example",), ()):
                self.assert_refused(self.answer(*names), "its certificate is for another service", line)

    def test_public_trust(self) -> None:
        """Without a pin, a certificate that the trust store does not know is refused."""
        line = Line(b"s" * 32, None, sni="a.example")
        self.assert_refused(self.answer("a.example"), "certificate verify failed", line)

    def trust(self, *names: str, days: int = 1) -> peer.Stock:
        """A server whose certificate is in the client's trust store."""
        stock = self.answer(*names, days=days)
        shown = stock.tls.get_certificate(as_cryptography=True)
        assert shown is not None
        path = Path(self.mktemp())
        path.write_bytes(shown.public_bytes(Encoding.PEM))
        self.hello.trusting.load_verify_locations(str(path))
        return stock

    def test_public_certificate(self) -> None:
        """Without a pin, a certificate that the trust store knows is good for the line's name."""
        _, opened = self.open(self.trust("a.example"), Line(b"s" * 32, None, sni="a.example"))
        self.successResultOf(opened)

    def test_public_certificate_of_another(self) -> None:
        """Without a pin, a trusted certificate of somebody else is refused."""
        line = Line(b"s" * 32, None, sni="a.example")
        self.assert_refused(self.trust("b.example"), "its certificate is for another service", line)

    def test_public_certificate_is_over(self) -> None:
        """Without a pin the dates of a certificate count; with one they do not."""
        line = Line(b"s" * 32, None, sni="a.example")
        self.assert_refused(self.trust("a.example", days=-1), "certificate verify failed", line)
        _, opened = self.open(self.answer(HOST, days=-1))
        self.successResultOf(opened)

    def test_only_tls_1_3(self) -> None:
        """A server that knows TLS 1.2 alone is refused."""
        context = peer.server_context(peer.certificate(HOST))
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        _, opened = self.open(peer.Stock(context, server=True))
        self.failureResultOf(opened, ChannelFailed)
        self.assert_quiet()

    def test_silence(self) -> None:
        """A server that says nothing is given up after 15 seconds."""
        wire, opened = self.open(Protocol())
        self.clock.advance(14.9)
        self.assertNoResult(opened)
        self.clock.advance(0.1)
        self.failureResultOf(opened, ChannelFailed)
        wire.run()
        self.assertFalse(wire.client.connected)
        self.assert_quiet()

    def test_cancelling(self) -> None:
        """Who cancels drops the connection, before it stands and after."""
        wire, opened = self.open(Protocol())
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        self.assertTrue(wire.client.aborted)
        lower, opened = self.client.open(LINE, ISN, HOST, self.here)
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        self.assertTrue(Wire(lower, Protocol()).client.aborted)
        self.assert_quiet()

    def test_closed_early(self) -> None:
        """A server that hangs up before TLS is there has failed."""
        server = Protocol()
        lower, opened = self.client.open(LINE, ISN, HOST, self.here)
        wire = Wire(lower, server)
        wire.server.loseConnection()
        wire.run()
        self.failureResultOf(opened, ChannelFailed)
        self.assertFalse(wire.client.connected)
        self.assert_quiet()

    @given(st.binary(min_size=1, max_size=200).map(lambda octets: b"\x16\x03\x03" + octets) | st.binary(max_size=200))
    @example(b"SSH-2.0-OpenSSH_9.2\r\n")
    def test_garbage(self, octets: bytes) -> None:
        """Whatever answers in place of TLS, the Deferred fails with `ChannelFailed` and no trace is left."""
        self.assert_garbage_fails(octets)

    def assert_garbage_fails(self, octets: bytes) -> None:
        """A server that says *octets* has failed."""
        lower, opened = self.client.open(LINE, ISN, HOST, self.here)
        wire = Wire(lower, Protocol())
        wire.server.write(octets)
        wire.server.loseConnection()
        wire.run()
        self.failureResultOf(opened, ChannelFailed)
        self.assert_quiet()

    def test_nothing_but_the_client_hello_is_sent_to_others(self) -> None:
        """No alert, no Finished, no proof: whoever answers learns no more than that a TLS client has called."""
        old = peer.server_context(peer.certificate(HOST))
        old.set_max_proto_version(SSL.TLS1_2_VERSION)
        foreign = peer.server_context(peer.certificate(HOST, key=STRANGER), STRANGER)
        trusted = Line(b"s" * 32, None, sni="a.example")
        for context, line in ((old, LINE), (foreign, LINE), (foreign, trusted), (None, LINE)):
            lower, opened = self.client.open(line, ISN, HOST, self.here)
            below: Any = StringTransport()
            below.setTcpNoDelay = lambda on: None
            below.abortConnection = below.loseConnection
            lower.makeConnection(below)
            called = below.value()
            self.assertEqual((called[0], called[5], len(called)), (22, 1, 5 + int.from_bytes(called[3:5])))
            if context is None:
                lower.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            else:
                server = SSL.Connection(context, None)
                server.set_accept_state()
                server.bio_write(called)
                self.assertRaises((SSL.WantReadError, SSL.Error), server.do_handshake)  # the old one sends an alert
                lower.dataReceived(server.bio_read(1 << 16))
            self.failureResultOf(opened, ChannelFailed)
            self.assertEqual(below.value(), called)
            self.assertTrue(below.disconnecting)


class AcceptTests(Scene):
    """An independent client at a server of ours."""

    def test_right_proof(self) -> None:
        """After a right proof both directions are the service's; data of the same flight is not lost."""
        wire, stock = self.knock()
        stock.say(self.prove(stock) + b"at once")
        stock.say(b" and later")
        wire.run()
        self.there.transport.write(b"welcome")
        wire.run()
        self.assertEqual((self.whose, b"".join(self.there.heard)), ([0], b"at once and later"))
        self.assertEqual((stock.heard, self.refused), ([b"welcome"], []))
        self.assert_quiet()

    def test_paddings(self) -> None:
        """Every length of padding is understood."""
        for pad in (0, 1, 1023, 1024):
            self.there = Upper()
            wire, stock = self.knock()
            stock.say(self.prove(stock, pad=pad))
            wire.run()
            self.assertEqual((self.there.made, self.there.heard), (1, []))

    def test_octet_by_octet(self) -> None:
        """A hello may come as slowly and in as many records as it likes, within its 20 seconds."""
        wire, stock = self.knock()
        wire.cut = 1
        for octet in self.prove(stock, pad=2):
            stock.say(bytes([octet]))
            wire.run()
            self.clock.advance(0.5)
        self.assertEqual(self.whose, [0])

    def test_two_candidates(self) -> None:
        """When two lines have the same token, the proof says whose connection it is."""
        for number, line in enumerate((LINE, OTHER)):
            wire, stock = self.knock([LINE, OTHER])
            stock.say(self.prove(stock, line))
            wire.run()
            self.assertEqual(self.whose[-1], number)

    def assert_silent_end(self, wire: Wire, why: Refusal, stock: peer.Stock | None = None) -> None:
        """Nothing more is said, whatever *stock* says, and the end comes when it was drawn to come: 20 s + 30 s."""
        said = len(wire.server.said)
        self.assertEqual(self.refused, [why])
        self.assertIn((20.0, 60.0), self.chance.asked)
        self.clock.advance(self.began + 49.9 - self.clock.seconds())
        if stock is not None:
            stock.say(bytes(1 << 20))
        wire.run()
        self.assertTrue(wire.server.connected)
        self.clock.advance(0.2)
        wire.run()
        self.assertFalse(wire.server.connected)
        self.assertEqual(len(wire.server.said), said)
        self.assertEqual((self.whose, self.refused), ([], [why]))
        self.assert_quiet()

    def test_wrong_proofs(self) -> None:
        """Of another line, for another ISN, of another bridge, a bit off, and none: the end is the same silence."""
        for wrong in (
            lambda stock: self.prove(stock, OTHER),
            lambda stock: self.prove(stock, isn=ISN + 1),
            lambda stock: self.prove(stock, replace(LINE, pin=b"p" * 32)),
            lambda stock: bytes([self.prove(stock)[0] ^ 1]) + self.prove(stock)[1:],
            lambda stock: peer.hello(self.prove(stock)[:32], 1025),
            lambda stock: b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" * 20,
        ):
            self.refused.clear()
            wire, stock = self.knock()
            stock.say(wrong(stock))
            wire.run()
            self.assert_silent_end(wire, Refusal.WRONG_PROOF, stock)

    def test_replayed_proof(self) -> None:
        """A right proof of one session is a wrong one in the next."""
        wire, stock = self.knock()
        proof = self.prove(stock)
        stock.say(proof)
        wire.run()
        self.assertEqual(self.whose, [0])
        self.whose.clear()
        wire, stock = self.knock()
        stock.say(proof)
        wire.run()
        self.assert_silent_end(wire, Refusal.WRONG_PROOF, stock)

    def test_no_second_chance(self) -> None:
        """A right proof opens nothing behind a wrong one, nor after 20 seconds."""
        wire, stock = self.knock()
        stock.say(bytes(34))
        wire.run()
        stock.say(self.prove(stock))
        wire.run()
        self.assert_silent_end(wire, Refusal.WRONG_PROOF, stock)
        self.refused.clear()
        wire, stock = self.knock()
        self.clock.advance(20)
        stock.say(self.prove(stock))
        wire.run()
        self.assert_silent_end(wire, Refusal.NO_PROOF, stock)

    def test_nobody_sees_the_verdict(self) -> None:
        """TLS's own answers and the end are the same before a proof is complete and after it was found wrong."""
        for probe in (
            lambda stock: stock.finish(),
            lambda stock: stock.transport.write(b"GET / HTTP/1.0\r\n\r\n"),
            lambda stock: stock.transport.write(b"\x17\x03\x03\x00\x20" + bytes(32)),
        ):
            seen = set()
            for said in (b"\0", bytes(33), bytes(34), bytes(32) + b"\xff\xff", bytes(2000)):
                wire, stock = self.knock()
                before = sum(map(len, wire.server.said))
                stock.say(said)
                wire.run()
                probe(stock)
                wire.run()
                answered = sum(map(len, wire.server.said)) - before
                seen.add((answered, wire.server.connected, stock.ended, stock.failed))
            self.assertEqual(len(seen), 1)
        self.assert_quiet()

    def test_no_proof(self) -> None:
        """Who gives none within 20 seconds, or half of one, has given a wrong one."""
        for begun in (b"", b"half a proof"):
            self.refused.clear()
            wire, stock = self.knock()
            stock.say(begun or b"\0")
            wire.run()
            self.clock.advance(20)
            self.assert_silent_end(wire, Refusal.NO_PROOF, stock)

    def test_a_late_proof(self) -> None:
        """A right proof opens nothing once its 20 seconds are over."""
        wire, stock = self.knock()
        self.clock.advance(20)
        stock.say(self.prove(stock))
        wire.run()
        self.assert_silent_end(wire, Refusal.NO_PROOF, stock)

    def test_no_handshake(self) -> None:
        """Silence, or half a ClientHello, is met with the same silence."""
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01"):
            self.refused.clear()
            wire = Wire(Protocol(), self.accept())
            wire.client.write(begun)
            wire.run()
            self.clock.advance(20)
            self.assert_silent_end(wire, Refusal.NO_PROOF)
            self.assertEqual(wire.server.said, [])

    def test_leaving(self) -> None:
        """Who leaves first leaves no timer behind: at once, after TLS's end, within the silence."""
        wire = Wire(Protocol(), self.accept())
        wire.client.loseConnection()
        wire.run()
        self.assert_quiet()
        wire, stock = self.knock()
        stock.finish()
        wire.run()
        self.assertTrue(stock.ended)
        self.assert_quiet()
        wire, stock = self.knock()
        self.clock.advance(21)
        wire.client.abortConnection()
        wire.run()
        self.assert_quiet()
        self.assertEqual(self.refused, [Refusal.LEFT, Refusal.LEFT, Refusal.NO_PROOF])

    def assert_counted_once(self, wire: Wire, octets: bytes) -> None:
        """The client sends *octets*: that is one refusal, the connection is closed, and nothing is left behind."""
        wire.client.write(octets)
        wire.run()
        self.clock.advance(20)
        self.clock.advance(60)
        wire.run()
        self.assertFalse(wire.server.connected)
        self.assertEqual((len(self.refused), self.whose), (1, []))
        self.assert_quiet()

    @given(st.binary(max_size=300).map(lambda octets: b"\x16\x03\x01\x01\x00" + octets) | st.binary(max_size=300))
    @example(b"GET / HTTP/1.0\r\n\r\n")
    @example(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00" * 20)
    def test_garbage(self, octets: bytes) -> None:
        """Whatever comes in place of TLS is counted once, and leaves nothing behind."""
        self.refused.clear()
        wire = Wire(Protocol(), self.accept(), cut=7)
        self.assert_counted_once(wire, octets)

    @given(st.binary(min_size=1, max_size=300))
    def test_garbage_behind_the_handshake(self, octets: bytes) -> None:
        """Octets that are no records of this session never reach anybody."""
        self.refused.clear()
        wire, _ = self.knock()
        self.assert_counted_once(wire, octets)

    def test_broken_tls_is_closed_like_anywhere(self) -> None:
        """A client that knows TLS 1.2 alone gets an alert, and the connection is closed."""
        wire, _ = self.knock(stock=peer.Stock.client(SSL.TLS1_2_VERSION))
        self.assertEqual([said[:1] for said in wire.server.said], [b"\x15"])
        self.assertFalse(wire.server.connected)
        self.assertEqual(self.refused, [Refusal.BROKE_TLS])
        self.assert_quiet()

    def test_crowd(self) -> None:
        """Of too many connections without a proof the oldest is closed; those with a proof are not counted."""
        wire, stock = self.knock()
        stock.say(self.prove(stock))
        wire.run()
        self.patch(tls_server, "UNPROVEN_AT_MOST", 3)
        wires = [Wire(Protocol(), self.accept()) for _ in range(5)]
        for each in wires:
            each.run()
        self.assertEqual([each.server.connected for each in wires], [False, False, True, True, True])
        self.assertEqual(self.refused, [Refusal.CROWDED_OUT] * 2)
        self.assertTrue(wire.server.connected)
        self.clock.advance(100)
        self.clock.advance(100)
        for each in wires:
            each.run()
        self.assert_quiet()


class AppearanceTests(Scene):
    """What an observer, or a client without a secret, sees of the server."""

    def test_certificate(self) -> None:
        """It is of the bridge's key, for the address of the line that knocked alone."""
        stock = peer.Stock.client()
        Wire(stock, self.accepted(self.server.accept([OTHER], ISN, self.there, [("203.0.113.9",)]))).run()
        shown = stock.tls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(list(map(str, names.get_values_for_type(x509.IPAddress))), ["203.0.113.9"])
        self.assertEqual(shown.public_key(), peer.KEY.public_key())

    def test_lines_with_nothing_in_common(self) -> None:
        """Two lines that share a token are shown a certificate for nothing, and TLS goes on."""
        _, stock = self.knock([replace(LINE, sni="a.example"), replace(OTHER, sni="b.example")])
        shown = stock.tls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        self.assertNotIn(x509.SubjectAlternativeName.oid, [each.oid for each in shown.extensions])

    def test_certificates_are_kept_and_few(self) -> None:
        """One certificate serves many connections, and not more are kept than a bridge needs."""
        first = self.server.context(HOST, [LINE])
        self.assertIs(self.server.context(HOST, [OTHER]), first)
        for number in range(100):
            self.server.context(f"198.51.100.{number}", [LINE])
        self.assertLessEqual(len(self.server._contexts), 64)

    def test_link_local(self) -> None:
        """An address that names its link makes no bad certificate."""
        self.assertIs(self.server.context("fe80::1%eth0", [LINE]), self.server.context("fe80::1", [LINE]))

    def test_alpn(self) -> None:
        """`http/1.1` is chosen of what a browser offers; who offers nothing of the kind is not refused."""
        _, stock = self.knock()
        self.assertEqual(stock.tls.get_alpn_proto_negotiated(), b"http/1.1")
        for offered in (None, [b"h3"]):
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            if offered:
                context.set_alpn_protos(offered)
            _, stock = self.knock(stock=peer.Stock(context))
            self.assertTrue(stock.ready)

    def test_client_hello(self) -> None:
        """SNI is sent if the line has it and not otherwise; ALPN is offered; the hello leaves with the Finished."""
        for sni in (None, "a.example"):
            line = replace(LINE, sni=sni)
            wire, opened = self.open(self.accept([line]), line)
            self.successResultOf(opened)
            first = wire.client.said[0]
            self.assertEqual(b"a.example" in first, sni is not None)
            self.assertIn(b"\x02h2\x08http/1.1", first)
            self.assertNotIn(b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03", first)  # supported_versions: TLS 1.3 alone
            self.assertIn(b"\x00\x2b\x00\x03\x02\x03\x04", first)

    def test_the_hello_needs_no_round_trip(self) -> None:
        """After the server's first flight the client sends Finished and hello before it waits again."""
        lower, opened = self.client.open(LINE, ISN, HOST, self.here)
        wire = Wire(lower, self.accept())
        wire._step(wire.client, wire.server)
        wire._step(wire.server, wire.client)
        self.successResultOf(opened)
        wire._step(wire.client, wire.server)
        self.assertEqual(self.whose, [0])


class TicketTests(SynchronousTestCase):
    """Session tickets, which depend on how a process has loaded OpenSSL."""

    def run_in_process(self, program: str, environment: dict[str, str]) -> str:
        """What *program* prints in a process with *environment* that knows our packages."""
        program = (
            "from twisted.internet.task import Clock\n"
            "from torknock.channel.tickets import TicketsSent\n"
            "from torknock.channel.tls_server import ServerTLS\n"
            "from tests.unit.channel import peer\n"
            "from tests.unit.channel.wire import Wire\n" + program
        )
        root = Path(__file__).parents[3]
        arguments = [sys.executable, "-c", program]
        return subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout

    def test_tickets_are_noticed(self) -> None:
        """A process that loaded OpenSSL without our configuration gets no server, and is told what to do."""
        program = "try: ServerTLS(Clock(), peer.PRIVATE_KEY, None)\nexcept TicketsSent as error: print(error)\n"
        self.assertIn("torknock server", self.run_in_process(program, {}))

    def test_no_tickets(self) -> None:
        """With our configuration the server's last words are its Finished, until its service says something."""
        program = (
            "from random import SystemRandom\n"
            "server = ServerTLS(Clock(), peer.PRIVATE_KEY, SystemRandom())\n"
            "stock = peer.Stock.client()\n"
            "wire = Wire(stock, server.accept([], 1, None)[0])\n"
            "wire.run()\n"
            "print(stock.ready, len(wire.server.said))\n"
        )
        self.assertEqual(self.run_in_process(program, {"OPENSSL_CONF": str(OPENSSL_CONF)}), "True 1\n")


class CarryTests(Scene):
    """Ours with ours: a transport such as TCP's."""

    @given(st.integers(1, 3000), st.data())
    def test_the_cut_does_not_matter(self, cut: int, data: st.DataObject) -> None:
        """What is written arrives, whatever pieces it is written in and the network makes of it."""
        self.assert_cut(cut, data)

    def assert_cut(self, cut: int, data: st.DataObject) -> None:
        """It arrives in pieces of *cut* octets."""
        self.here, self.there = Upper(), Upper()
        wire = self.both(cut)
        whole = (bytes(range(256)) * 200)[: 500 * cut]  # in 500 pieces at least, and not in 50,000
        self.here.transport.writeSequence(data.draw(pieces(whole)))
        for piece in data.draw(pieces(whole[::-1])):
            self.there.transport.write(piece)
            wire.run()
        wire.run()
        self.assertEqual(b"".join(self.there.heard), whole)
        self.assertEqual(b"".join(self.here.heard), whole[::-1])

    def test_a_big_write(self) -> None:
        """One write of many megabytes arrives whole, and leaves in pieces."""
        wire = self.both()
        whole = bytes(range(256)) * 20_000
        self.here.transport.write(whole)
        wire.run()
        self.assertEqual(hashlib.sha256(b"".join(self.there.heard)).digest(), hashlib.sha256(whole).digest())
        self.assertLess(max(map(len, wire.client.said)), 300_000)

    def test_a_write_leaves_at_once(self) -> None:
        """A write of what is read at once is one write to TCP, and no octet is left behind in OpenSSL."""
        wire = self.both()
        before = len(wire.client.said)
        self.here.transport.write(bytes(100_000))
        self.assertEqual(len(wire.client.said), before + 1)

    def test_closing(self) -> None:
        """Both upper protocols are told once, of a clean end, after everything was received."""
        wire = self.both()
        self.here.transport.write(b"last words")
        self.here.transport.loseConnection()
        self.assertTrue(self.here.transport.disconnecting)
        self.here.transport.write(b"too late")
        self.here.transport.loseConnection()
        wire.run()
        self.assertEqual(self.there.heard, [b"last words"])
        for upper in (self.here, self.there):
            self.assertEqual([loss.type for loss in upper.losses], [ConnectionDone])
        self.here.transport.write(b"much too late")

    def test_aborting(self) -> None:
        """An abort is a loss to the other end, and drops what waits."""
        wire = self.both()
        self.here.transport.write(b"never mind")
        self.here.transport.abortConnection()
        wire.run()
        self.assertEqual([loss.type for loss in self.there.losses], [ConnectionLost])
        self.assertEqual((len(self.here.losses), self.there.heard), (1, []))

    def test_truncation(self) -> None:
        """TCP that ends before TLS does is a loss, for every upper protocol: somebody on the way may have done it."""
        for upper in (Upper(), Half()):
            self.there = upper
            wire = self.both()
            wire.end_of_stream(wire.server)
            wire.run()
            self.assertEqual([loss.type for loss in upper.losses], [ConnectionLost])
            self.assertEqual(getattr(upper, "ends", ""), "")
            self.assertFalse(wire.server.connected)

    def test_tampering(self) -> None:
        """A record that somebody on the way has changed is a loss, once, and nothing of it is received."""
        wire = self.both()
        self.here.transport.write(b"good")
        wire.run()
        self.here.transport.write(b"bad")
        wire.client.waiting = wire.client.waiting[:-1] + bytes([wire.client.waiting[-1] ^ 1])
        self.here.transport.write(b"more")
        wire.run()
        self.assertEqual([loss.type for loss in self.there.losses], [ConnectionLost])
        self.assertEqual(self.there.heard, [b"good"])
        self.there.transport.write(b"nothing happens")
        self.there.transport.loseConnection()

    def test_half_close(self) -> None:
        """One direction may end before the other, on either side."""
        for first, second in (("here", "there"), ("there", "here")):
            self.here, self.there = Half(), Half()
            wire = self.both()
            ending, other = getattr(self, first), getattr(self, second)
            ending.transport.write(b"all")
            ending.transport.loseWriteConnection()
            ending.transport.write(b"too late")
            wire.run()
            self.assertEqual((other.heard, other.ends, ending.ends), ([b"all"], "r", "w"))
            other.transport.write(b"answer")
            other.transport.loseConnection()
            wire.run()
            self.assertEqual((ending.heard, ending.ends), ([b"answer"], "wr"))
            ending.transport.loseConnection()
            wire.run()
            for upper in (ending, other):
                self.assertEqual([loss.type for loss in upper.losses], [ConnectionDone])

    def test_half_close_of_a_stock_peer(self) -> None:
        """A peer that ends TLS and TCP in its direction still hears what is written to it."""
        self.there = Half()
        wire, stock = self.knock()
        stock.say(self.prove(stock) + b"all")
        stock.finish()
        wire.run()
        wire.end_of_stream(wire.server)
        self.there.transport.write(b"answer")
        wire.run()
        self.assertEqual((self.there.ends, self.there.losses, stock.heard), ("r", [], [b"answer"]))

    def test_no_half_close(self) -> None:
        """An upper protocol that knows of no half-closed connections loses its own when the peer ends."""
        wire = self.both()
        self.here.transport.loseWriteConnection()
        wire.run()
        self.assertEqual([loss.type for loss in self.there.losses], [ConnectionDone])

    def test_pausing(self) -> None:
        """An upper protocol that pauses gets nothing more until it resumes, and loses nothing."""
        self.there = Greedy()
        wire = self.both()
        whole = bytes(range(256)) * 600
        self.here.transport.write(whole)
        wire.run()
        self.assertEqual(len(self.there.heard), 1)
        self.assertTrue(wire.server.paused)
        for _ in range(20):
            self.there.transport.resumeProducing()
            wire.run()
        self.assertEqual(b"".join(self.there.heard), whole)

    def test_pausing_before_the_first_octets(self) -> None:
        """Data of the hello's own flight waits too."""

        class Shy(Upper):
            def connectionMade(self) -> None:
                self.transport.pauseProducing()

        self.there = Shy()
        wire, stock = self.knock()
        stock.say(self.prove(stock) + b"early")
        wire.run()
        self.assertEqual(self.there.heard, [])
        self.there.transport.resumeProducing()
        self.assertEqual(self.there.heard, [b"early"])

    def test_closing_while_receiving(self) -> None:
        """Nothing is received any more once the connection was closed or aborted by the upper protocol."""
        for how in ("loseConnection", "abortConnection"):

            class Leaver(Upper):
                how_to_leave = how

                def dataReceived(self, data: bytes) -> None:
                    super().dataReceived(data)
                    getattr(self.transport, self.how_to_leave)()

            self.there = Leaver()
            wire = self.both()
            self.here.transport.write(bytes(100_000))
            wire.run()
            self.assertEqual((len(self.there.heard), len(self.there.losses)), (1, 1))

    def test_back_pressure(self) -> None:
        """A reader that stalls stops the writer: what waits is bounded by the TCP transport's buffer and one piece."""

        class Source:
            going, gave = True, 0

            def resumeProducing(self) -> None:
                self.going = True

            def pauseProducing(self) -> None:
                self.going = False

            def stopProducing(self) -> None:
                self.going = False

        self.there = Greedy()
        wire = self.both()
        source = Source()
        self.here.transport.registerProducer(source, True)
        for _ in range(1000):
            if source.going:
                self.here.transport.write(bytes(65536))
                source.gave += 65536
            wire.run()
        self.assertFalse(source.going)
        self.assertLess(source.gave, 2_000_000)
        self.assertLess(wire.client.most_waiting, 500_000)
        self.assertEqual(len(self.there.heard), 1)
        while sum(map(len, self.there.heard)) < source.gave:
            self.there.transport.resumeProducing()
            wire.run()
        self.assertTrue(source.going)
        self.here.transport.unregisterProducer()

    def test_a_broken_connection_lets_its_producer_go(self) -> None:
        """When TLS breaks, a producer that is paused does not hold the TCP connection."""
        wire = self.both()
        producer = StringTransport()
        self.there.transport.registerProducer(producer, True)
        wire.client.write(b"no record at all")
        wire.run()
        self.assertIsNone(wire.server._producer)
        self.assertFalse(wire.server.connected)

    def test_transport(self) -> None:
        """Addresses and TCP's options are the TCP connection's own."""
        wire = self.both()
        transport = self.here.transport
        self.assertEqual((transport.getHost(), transport.getPeer()), (wire.client.getHost(), wire.client.getPeer()))
        transport.setTcpKeepAlive(True)
        transport.setTcpNoDelay(False)
        self.assertEqual((wire.client.keep_alive, wire.client.no_delay), (True, False))
        transport.stopProducing()
        wire.run()
        self.assertFalse(wire.client.connected)
