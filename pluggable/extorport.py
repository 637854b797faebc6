"""Connections to tor's Extended ORPort (ext-orport-spec), or to its plain ORPort if tor has no other.

`ExtORPortHandshake` does no I/O: it takes what tor sent and returns what to send.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from pluggable.environment import ServerEnvironment
from pluggable.errors import ORPortError
from pluggable.inbox import Inbox
from pluggable.relay import Half, Single

HANDSHAKE_LIMIT = 5.0
"""Seconds that tor has from the first SYN to its OKAY."""

_COOKIE_HEADER = b"! Extended ORPort Auth Cookie !\x0a"
_SAFE_COOKIE = 1
_DONE, _USERADDR, _TRANSPORT, _OKAY, _DENY = 0x0000, 0x0001, 0x0002, 0x1000, 0x1001


def read_cookie(path: Path) -> bytes:
    """The 32 bytes of the cookie in *path* (ext-orport-spec §2.1.2). Raises `ORPortError`."""
    try:
        with path.open("rb") as file:
            content = file.read(65)
    except OSError as error:
        raise ORPortError(f"Extended ORPort: cookie {path}: {error.strerror}") from error
    if len(content) != 64 or not hmac.compare_digest(content[:32], _COOKIE_HEADER):
        raise ORPortError(f"Extended ORPort: {path} is not a cookie of tor's")
    return content[32:]


def user_address(host: str, port: int) -> str:
    """`ip:port` of a client as tor reads it: IPv6 in brackets, an IPv4-mapped address as IPv4."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _message(command: int, body: bytes = b"") -> bytes:
    return command.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


class ExtORPortHandshake:
    """The transport's half of SAFE_COOKIE (ext-orport-spec §2.1.3), then who the client is (§3.2).

    *cookie* and *client_nonce* are 32 bytes each; the nonce is an argument so that a test can fix it. *transport* is
    the transport's name, *user* what `user_address` writes, or None for a client of unknown address.
    """

    def __init__(self, cookie: bytes, client_nonce: bytes, transport: str, user: str | None) -> None:
        self._cookie, self._client_nonce = cookie, client_nonce
        self._about = b"" if user is None else _message(_USERADDR, user.encode("ascii"))
        self._about += _message(_TRANSPORT, transport.encode("ascii")) + _message(_DONE)
        self._inbox = Inbox()
        self._step: Callable[[ExtORPortHandshake], bytes | None] = ExtORPortHandshake._auth_types
        self.done = False

    def feed(self, octets: bytes) -> bytes:
        """Take what tor sent, in pieces of any size; return what to send now, perhaps nothing.

        Raises `ORPortError`; do not use the object after that.
        """
        self._inbox += octets
        answer = b""
        while not self.done and (to_send := self._step(self)) is not None:
            answer += to_send
        return answer

    @property
    def rest(self) -> bytes:
        """What tor sent after its OKAY; meaningful once `done`."""
        return bytes(self._inbox)

    def _auth_types(self) -> bytes | None:
        end = self._inbox.find(0, 0, 256)
        if end < 0:
            if len(self._inbox) >= 256:
                raise ORPortError("Extended ORPort: 256 authentication types without an end")
            return None
        offered = self._inbox.take(end + 1) or b""
        if _SAFE_COOKIE not in offered:
            raise ORPortError("Extended ORPort: tor does not offer SAFE_COOKIE (type 1)")
        self._step = ExtORPortHandshake._server_hash
        return bytes([_SAFE_COOKIE]) + self._client_nonce

    def _server_hash(self) -> bytes | None:
        if (sent := self._inbox.take(64)) is None:
            return None
        server_hash, server_nonce = sent[:32], sent[32:]
        if not hmac.compare_digest(server_hash, self._hash(b"server-to-client", server_nonce)):
            raise ORPortError("Extended ORPort: the hash of the server is not made with tor's cookie")
        self._step = ExtORPortHandshake._status
        return self._hash(b"client-to-server", server_nonce)

    def _status(self) -> bytes | None:
        if (status := self._inbox.take(1)) is None:
            return None
        if status != b"\x01":
            raise ORPortError("Extended ORPort: tor refused our hash")
        self._step = ExtORPortHandshake._reply
        return self._about

    def _reply(self) -> bytes | None:
        if len(self._inbox) < 4:
            return None
        command, size = (int.from_bytes(self._inbox[at : at + 2], "big") for at in (0, 2))
        if self._inbox.take(4 + size) is None:
            return None
        if command == _DENY:
            raise ORPortError("Extended ORPort: tor denied the connection")
        self.done = command == _OKAY
        return b""

    def _hash(self, way: bytes, server_nonce: bytes) -> bytes:
        label = b"ExtORPort authentication " + way + b" hash"
        return hmac.digest(self._cookie, label + self._client_nonce + server_nonce, "sha256")


class _HandshakeOpening:
    """The opening of a link to the Extended ORPort."""

    def __init__(self, handshake: ExtORPortHandshake) -> None:
        self._handshake = handshake
        self.done: Deferred[None] = Deferred(lambda _: self._half.abort())
        self.rest = b""

    def opened(self, half: Half) -> None:
        self._half = half

    def received(self, octets: bytes) -> None:
        if self.done.called:
            self.rest += octets
            return
        try:
            self._half.transport.write(self._handshake.feed(octets))
        except ORPortError as error:
            self._half.abort()
            self.done.errback(error)
            return
        if self._handshake.done:
            self.rest = self._handshake.rest
            self.done.callback(None)

    def lost(self, reason: Failure) -> None:
        if not self.done.called:
            self.done.errback(ORPortError("Extended ORPort: tor closed the connection"))


async def dial(reactor: Any, environment: ServerEnvironment, transport: str, client: IAddress | None) -> Half:
    """A link to tor that takes payload at once. *client* is where it comes from, or None.

    Raises `ORPortError`, or Twisted's errors of connecting.
    """
    if environment.extended_or_port is None:
        if environment.or_port is None:
            raise ORPortError("tor offers no ORPort")
        return await _connect(reactor, environment, environment.or_port, Half())
    if environment.auth_cookie_file is None:
        raise ORPortError("Extended ORPort: no cookie")
    host, port = getattr(client, "host", None), getattr(client, "port", None)
    user = user_address(host, port) if isinstance(host, str) and port else None
    cookie = read_cookie(environment.auth_cookie_file)
    opening = _HandshakeOpening(ExtORPortHandshake(cookie, secrets.token_bytes(32), transport, user))
    half = await _connect(reactor, environment, environment.extended_or_port, Half(opening))
    await opening.done
    return half


async def _connect(reactor: Any, environment: ServerEnvironment, to: tuple[str, int], half: Half) -> Half:
    kind = TCP6ClientEndpoint if ":" in to[0] else TCP4ClientEndpoint
    source = environment.outbound_bind(to[0])
    await kind(reactor, *to, timeout=HANDSHAKE_LIMIT, bindAddress=(source, 0) if source else None).connect(Single(half))
    return half
