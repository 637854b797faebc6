"""`pluggable.testing` beside a real tor: what each is asked, both answer alike."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
from collections.abc import Callable
from typing import Protocol

from twisted.trial.unittest import SynchronousTestCase

from pluggable.extorport import read_cookie
from pluggable.testing import (
    COOKIE_HEADER,
    TorExtendedORPort,
    TorSOCKS,
    client_environment,
    cookie_file,
    server_environment,
)
from tests.support.lone_tor import PATIENCE, LoneTor
from tests.support.transports import read

LINES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("k", "v"),),
    (("a", r"1;2\3"), ("b", "=x="), ("a", "")),
    (("size", "x" * 250),),
    (("size", "x" * 251),),
    (("size", "x" * 505),),
)
"""Arguments of bridge lines: escapes, a key that comes twice, and what ends at the limits of username and password."""


class Conversation(Protocol):
    """A connection to an Extended ORPort."""

    def send(self, octets: bytes) -> None:
        """Say *octets* to tor."""

    def read(self, size: int) -> bytes:
        """What tor says next; less than *size* octets if it has closed the connection."""


class WithTor:
    """A `Conversation` with a real tor."""

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def send(self, octets: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._link.sendall(octets)

    def read(self, size: int) -> bytes:
        try:
            return read(self._link, size)
        except ConnectionError:
            return b""

    def close(self) -> None:
        self._link.close()


class WithTwin:
    """A `Conversation` with `TorExtendedORPort`."""

    def __init__(self, cookie: bytes) -> None:
        self._twin = TorExtendedORPort(cookie, secrets.token_bytes(32))
        self._said = self._twin.greeting()

    def send(self, octets: bytes) -> None:
        self._said += self._twin.feed(octets)

    def read(self, size: int) -> bytes:
        said, self._said = self._said[:size], self._said[size:]
        assert len(said) == size or self._twin.closed, "it would wait for ever"
        return said


def message(command: int, body: bytes = b"") -> bytes:
    """A message of ext-orport-spec §3."""
    return command.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def hashed(cookie: bytes, way: bytes, nonces: bytes) -> bytes:
    """A hash of ext-orport-spec §2.1.3."""
    return hmac.digest(cookie, b"ExtORPort authentication " + way + b" hash" + nonces, "sha256")


def authenticate(tor: Conversation, cookie: bytes, knows_it: bool = True) -> list[bytes]:
    """What tor says until its status, to a transport that *knows_it*, the cookie."""
    said = [tor.read(2)]
    ours = b"n" * 32
    tor.send(b"\x01" + ours)
    answer = tor.read(64)
    nonces = ours + answer[32:]
    said.append(b"proved" if answer[:32] == hashed(cookie, b"server-to-client", nonces) else answer)
    tor.send(hashed(cookie, b"client-to-server", nonces) if knows_it else bytes(32))
    return [*said, tor.read(1)]


def another_type(tor: Conversation, cookie: bytes) -> list[bytes]:
    """A transport that wants another authentication type."""
    said = [tor.read(2)]
    tor.send(b"\x02")
    return [*said, tor.read(1)]


def wrong_hash(tor: Conversation, cookie: bytes) -> list[bytes]:
    """A transport that does not know the cookie."""
    return [*authenticate(tor, cookie, knows_it=False), tor.read(1)]


def saying(*messages: bytes) -> Callable[[Conversation, bytes], list[bytes]]:
    """A transport that knows the cookie and then sends *messages* at once, and what tor answers within 4 octets."""

    def converse(tor: Conversation, cookie: bytes) -> list[bytes]:
        said = authenticate(tor, cookie)
        tor.send(b"".join(messages))
        return [*said, tor.read(4)]

    return converse


ADDRESS, NAME, DONE = message(1, b"192.0.2.7:42"), message(2, b"rot"), message(0)
CONVERSATIONS: dict[str, Callable[[Conversation, bytes], list[bytes]]] = {
    "another authentication type": another_type,
    "a wrong hash": wrong_hash,
    "all that can be said": saying(ADDRESS, NAME, DONE),
    "an address of IPv6": saying(message(1, b"[2001:db8::7]:42"), NAME, DONE),
    "nothing but DONE": saying(DONE),
    "an unknown command": saying(message(0x1234, b"abc"), DONE),
    "DONE with a body": saying(message(0, b"x")),
    **{
        f"the address {address!r}": saying(message(1, address), DONE)
        for address in (
            b"", b"somewhere", b"example.org:42", b"192.0.2.7", b"2001:db8::7", b"[2001:db8::7]", b"[192.0.2.7]:42",
            b"[192.0.2.7]", b"192.0.2.7:0", b"192.0.2.7:70000", b"192.0.2.7:", b"192.0.2.7:42 ", b"192.0.2.7:42\0",
        )
    },
    **{
        f"the transport {name!r}": saying(message(2, name), DONE)
        for name in (b"", b"r o t", b"1rot", b"ro-t", b"_rot1")
    },
    "payload before OKAY": saying(DONE, b"hello"),
}


class ServerTests(SynchronousTestCase):
    """What a bridge's tor is to its transport."""

    def tor(self, *lines: str) -> LoneTor:
        return LoneTor(
            "SocksPort 0", "BridgeRelay 1", "ORPort 127.0.0.1:auto", "Address 127.0.0.1", "ContactInfo nobody",
            "PublishServerDescriptor 0", "ServerTransportPlugin rot RECORDER SMETHOD 9", *lines,
        )  # fmt: skip

    def test_the_environment_is_the_one_that_tor_sets(self) -> None:
        """With every option of torrc that a transport can see, and with none."""
        every = (
            "ExtORPort auto", "ServerTransportListenAddr rot 127.0.0.1:4242",
            "ServerTransportOptions rot a=1 b=x;y:z\\= a=2",
        )  # fmt: skip
        for lines, bound in ((every, "127.0.0.1:4242"), ((), "0.0.0.0:0")):
            with self.subTest(lines=lines), self.tor(*lines) as tor:
                tor.until("Registered server transport 'rot'")
                environ = tor.environ()
                made = server_environment(
                    {"rot": bound}, tor.data_directory,
                    or_port=environ["TOR_PT_ORPORT"],
                    extended_or_port=environ.get("TOR_PT_EXTENDED_SERVER_PORT") or None,
                    options=r"rot:a=1;rot:b=x\;y\:z\\=;rot:a=2" if lines else None,
                )  # fmt: skip
                self.assertEqual(made, environ)

    def test_the_extended_orport_answers_as_tors_does(self) -> None:
        """To what the specification has, and to what it does not."""
        with self.tor("ExtORPort auto") as tor:
            tor.until("Registered server transport 'rot'")
            self.assertEqual(cookie_file(tor.data_directory).read_bytes()[:32], COOKIE_HEADER)
            cookie = read_cookie(cookie_file(tor.data_directory))
            port = int(tor.environ()["TOR_PT_EXTENDED_SERVER_PORT"].rpartition(":")[2])
            for name, converse in CONVERSATIONS.items():
                with self.subTest(name), contextlib.closing(WithTor(port)) as real:
                    self.assertEqual(converse(WithTwin(cookie), cookie), converse(real, cookie))


class ClientTests(SynchronousTestCase):
    """What a client's tor is to its transport."""

    def setUp(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(PATIENCE)
        self.addCleanup(self.listening.close)

    def tor(self, *lines: str) -> LoneTor:
        port = self.listening.getsockname()[1]
        return LoneTor("SocksPort auto", "UseBridges 1", f"ClientTransportPlugin rot RECORDER CMETHOD {port}", *lines)

    def heard(self) -> list[bytes]:
        """What tor says on its next connection, step by step, if each step is granted."""
        link, _ = self.listening.accept()
        link.settimeout(PATIENCE)
        with link:
            greeting = read(link, 2)
            said = [greeting + read(link, greeting[1])]
            if 2 in said[0][2:]:
                link.sendall(b"\x05\x02")
                username = read(link, 2)
                username += read(link, username[1])
                password = read(link, 1)
                said.append(username + password + read(link, password[0]))
                link.sendall(b"\x01\x00")
            else:
                link.sendall(b"\x05\x00")
            request = read(link, 4)
            said.append(request + read(link, {1: 6, 4: 18}[request[3]]))
            link.sendall(b"\x05\x05\x00\x01" + bytes(6))
            return said

    def test_the_environment_is_the_one_that_tor_sets(self) -> None:
        """With a proxy, and without."""
        for lines, proxy in (((), None), (("Socks5Proxy 127.0.0.1:9",), "socks5://127.0.0.1:9")):
            with self.tor("Bridge rot 192.0.2.1:443 k=v", *lines) as tor:
                tor.until("Connecting to pluggable transport")
                self.assertEqual(client_environment(["rot"], tor.data_directory, proxy), tor.environ())

    def test_requests_are_octet_for_octet_tors(self) -> None:
        """For IPv4 and IPv6, without arguments and with those of `LINES`."""
        lines = [("2001:db8::1", ()), *((f"192.0.2.{number}", line) for number, line in enumerate(((), *LINES), 1))]
        expected = {tuple(self.twin(address, arguments)) for address, arguments in lines}
        bridges = [
            f"Bridge rot {f'[{address}]' if ':' in address else address}:443 {' '.join(map('='.join, arguments))}"
            for address, arguments in lines
        ]
        seen: set[tuple[bytes, ...]] = set()
        with self.tor(*bridges):
            while seen != expected:
                said = tuple(self.heard())
                self.assertIn(said, expected)
                seen.add(said)

    def twin(self, address: str, arguments: tuple[tuple[str, str], ...]) -> list[bytes]:
        """What `TorSOCKS` says, if each step is granted."""
        socks = TorSOCKS(address, 443, arguments)
        said = [socks.greeting()]
        if arguments:
            said.append(socks.feed(b"\x05\x02"))
            said.append(socks.feed(b"\x01\x00"))
        else:
            said.append(socks.feed(b"\x05\x00"))
        socks.feed(b"\x05\x05\x00\x01" + bytes(6))
        self.assertEqual(socks.reply, 5)
        return said
