"""Parsers of octets that come over a network or from the kernel."""

from __future__ import annotations

import contextlib
import hmac
import random
import struct
from functools import cache
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from contrib.weekly.target import Fault, Target, pieces
from pluggable.errors import ORPortError, SOCKSError
from pluggable.extorport import ExtORPortHandshake
from pluggable.socks import SOCKS5
from tests.support.capture import Control, Packet, build
from tests.support.packets import LINUX_SYN_OPTIONS
from tests.unit.channel import peer
from tests.unit.channel.wire import CLIENT, SERVER, End
from torknock.channel.hello import Hello, OpenSSLHello, usual_hello
from torknock.channel.integrity import Integrity
from torknock.channel.interfaces import NotProved
from torknock.channel.peer_certificate import wrong_peer
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import ServerTLS
from torknock.kernel import netlink
from torknock.kernel.segment import BadDatagram
from torknock.kernel.syn_reader import SYNReader
from torknock.privileged.gate import nfqueue
from torknock.protocol.bridge_line import Line
from torknock.protocol.knock import integrity_code
from torknock.protocol.proof import HelloReader, WrongHello, hello
from torknock.tor.link import HELLO, Greeting, NotTor, proved

_LINE = Line(b"s" * 32, peer.PIN)
_SYN4 = Packet("192.0.2.1", "192.0.2.7", 40000, 443, seq=1, control=Control.SYN, options=LINUX_SYN_OPTIONS)
_SYN6 = Packet("2001:db8::1", "2001:db8::7", 40000, 443, seq=1, control=Control.SYN, options=LINUX_SYN_OPTIONS)
_COOKIE, _NONCE = b"c" * 32, b"n" * 32


def _socks(octets: bytes) -> None:
    conversation = SOCKS5()
    try:
        for piece in pieces(octets):
            conversation.feed(piece)
    except SOCKSError as error:
        conversation.refusal(error)


def _extorport(octets: bytes) -> None:
    """From the beginning, and after tor has proved that it has the cookie."""
    label = b"ExtORPort authentication server-to-client hash"
    proof = hmac.digest(_COOKIE, label + _NONCE + bytes(32), "sha256") + bytes(32)
    for begun in (b"", b"\1\0" + proof):
        conversation = ExtORPortHandshake(_COOKIE, _NONCE, "torknock", "192.0.2.1:1")
        try:
            conversation.feed(begun)
            for piece in pieces(octets):
                conversation.feed(piece)
        except ORPortError:
            continue


def _syn(octets: bytes) -> None:
    """As the kernel saves it, and as it comes in a packet queue."""
    for verify in (False, True):
        try:
            SYNReader(443, verify).read(octets)
        except BadDatagram:
            continue


def _hello(octets: bytes) -> None:
    reader = HelloReader()
    for piece in pieces(octets):
        reader.feed(piece)
    if reader.proof is not None and (len(reader.proof), octets[1:33]) != (32, reader.proof):
        raise Fault("the proof is not what came first")


def _integrity(octets: bytes) -> None:
    """With a code that fits, and with one that does not."""
    payload = octets[1:5]
    for isn in (integrity_code(b"secret", payload), 0):
        lower = Integrity(Clock(), [b"other", b"secret"], 4, isn)
        _speak(lower, octets)


def _tls_server(octets: bytes) -> None:
    lower, proved = _server().accept([_LINE], 1, Protocol())
    carried: list[int] = []
    proved.addCallbacks(carried.append, lambda failure: failure.trap(NotProved))
    _speak(lower, octets)
    if carried:
        raise Fault("a client was carried that has proved nothing")


def _tls_client(octets: bytes) -> None:
    for each in _hellos():
        client = ClientTLS(Clock(), random.Random(1), each)  # noqa: S311  the same for every input
        for line in (_LINE, Line(b"s" * 32, None, sni="bridge.example")):
            lower, opened = client.open(line, 1, "192.0.2.7", Protocol())
            opened.addBoth(lambda _: None)
            _speak(lower, octets)


class _Shown:
    """A TLS connection of which the peer's certificate is known."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def peer_certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self._octets)


def _certificate(octets: bytes) -> None:
    """Looked at for a pin, an address and a name."""
    shown = cast(Any, _Shown(octets))
    for line in (_LINE, Line(b"s" * 32, None, sni="bridge.example")):
        wrong_peer(shown, line, "192.0.2.7")


def _tor_link(octets: bytes) -> None:
    for begun in (b"", HELLO):
        greeting = Greeting()
        try:
            found = greeting.feed(begun)
            for piece in pieces(octets):
                found = found or greeting.feed(piece)
        except NotTor:
            continue
        if found is not None and proved(found, b"").fingerprint is not None:
            raise Fault("a relay that has proved nothing")


def _netlink(octets: bytes) -> None:
    for received in netlink.messages(octets):
        for _, value in netlink.attributes(received.body):
            list(netlink.attributes(value))


def _speak(lower: IProtocol, octets: bytes) -> None:
    """Have *lower* hear *octets* in pieces, and then the end of the connection."""
    end = End(lower, SERVER, CLIENT)
    lower.makeConnection(end)
    for piece in pieces(octets):
        if end.connected and not end.disconnecting:
            end.protocol.dataReceived(piece)
    end.lose(ConnectionError())


@cache
def _hellos() -> tuple[Hello, ...]:
    return OpenSSLHello(), usual_hello(random.Random(1).shuffle)  # noqa: S311  the same for every input


@cache
def _server() -> ServerTLS:
    return ServerTLS(Clock(), peer.PRIVATE_KEY, random.Random(1))  # noqa: S311  the same for every input


def _client_hello() -> bytes:
    lower, opened = ClientTLS(Clock(), random.Random(1), OpenSSLHello()).open(_LINE, 1, "192.0.2.7", Protocol())  # noqa: S311
    opened.addBoth(lambda _: None)
    end = End(lower, CLIENT, SERVER)
    lower.makeConnection(end)
    return b"".join(end.said)


def _server_hello() -> bytes:
    """What an independent server says first."""
    context = peer.server_context(peer.certificate("192.0.2.7"))
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    connection.bio_write(_client_hello())
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return bytes(connection.bio_read(1 << 16))


def _queued(datagram: bytes) -> bytes:
    """A message of the packet queue (linux/netfilter/nfnetlink_queue.h)."""
    attributes = b"".join(
        netlink.attribute(kind, value)
        for kind, value in ((1, struct.pack("!IHBx", 7, 0x800, 1)), (3, bytes(4)), (10, datagram))
    )
    return netlink.message(nfqueue._PACKET, attributes)


_CERTIFICATES = struct.pack("!IBH", 0, 129, 10) + b"\2\2\0\3abc\4\0\1x"
_WANTED = b"\5\1\2\1\4key=\1a\5\1\0\1\xc0\0\2\7\1\xbb"
_NESTED = netlink.message(1, netlink.attribute(1, netlink.attribute(1, b"abcd")))

TARGETS = (
    Target("socks", _socks, (), (b"\0" + _WANTED, b"\x40" + _WANTED, b"\x40\5\1\0\5\1\0\4" + bytes(16) + b"\1\xbb")),
    Target("extorport", _extorport, (), (b"\x40\1\2\0", b"\x40\1\x10\1\0\0", b"\1\1\x10\0\0\2ab\x10\0\0\0rest")),
    Target("syn", _syn, (BadDatagram,), (build(_SYN4), build(_SYN6), build(_SYN4)[:20])),
    Target("packet-queue", nfqueue._parse, (), (_queued(build(_SYN4)), _queued(build(_SYN6)))),
    Target("nftables-netlink", _netlink, (), (_NESTED, b"\0" * 32)),
    Target("hello", _hello, (WrongHello,), (b"\x40" + hello(bytes(32), b"pad"), b"\x07" + bytes(32) + b"\4\1")),
    Target("integrity", _integrity, (), (b"\1GET /", b"\x40GET / HTTP/1.1")),
    Target("tls-server", _tls_server, (), (b"\xff" + _client_hello(), b"\x05" + _client_hello(), b"\xffGET / HTTP")),
    Target("tls-client", _tls_client, (), (b"\xff" + _server_hello(), b"\xff\x15\3\3\0\2\2\x28")),
    Target("certificate", _certificate, (), tuple(
        peer.certificate(*names).public_bytes(Encoding.DER) for names in (("192.0.2.7",), ("bridge.example", "::1"), ())
    )),
    Target("tor-link", _tor_link, (), (b"\x40" + _CERTIFICATES, b"\x40" + HELLO + _CERTIFICATES)),
)  # fmt: skip
"""Those parsers."""
