"""tor's half of the Extended ORPort: SAFE_COOKIE, and what a server transport says of its client. Pure.

Source: ext-orport-spec §2.1.3 and §3. What tor does beyond its specification is done here too.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from ipaddress import ip_address

from pluggable.inbox import Inbox

COOKIE_HEADER = b"! Extended ORPort Auth Cookie !\x0a"

_SAFE_COOKIE = 1
_DONE, _USERADDR, _TRANSPORT, _OKAY, _DENY = 0x0000, 0x0001, 0x0002, 0x1000, 0x1001


class TorExtendedORPort:
    """A connection to tor's Extended ORPort. *cookie* and *server_nonce* are 32 octets each; *denies* refuses clients.

    After each `feed`, send what it returns; if `closed`, close the connection then.
    """

    def __init__(self, cookie: bytes, server_nonce: bytes, denies: bool = False) -> None:
        self._cookie, self._server_nonce, self._denies = cookie, server_nonce, denies
        self._inbox = Inbox()
        self._step: Callable[[TorExtendedORPort], bytes | None] = TorExtendedORPort._authentication_type
        self.user_address: str | None = None
        """`ip:port` of the client, as the transport said it."""
        self.transport: str | None = None
        self.accepted = self.closed = False

    def greeting(self) -> bytes:
        """What tor sends first: the authentication types."""
        return bytes([_SAFE_COOKIE, 0])

    def feed(self, octets: bytes) -> bytes:
        """Take what the transport sent, in pieces of any size; return what tor sends now."""
        self._inbox += octets
        answer = b""
        while not (self.accepted or self.closed) and (to_send := self._step(self)) is not None:
            answer += to_send
        return answer

    @property
    def rest(self) -> bytes:
        """What the client sent after tor's OKAY."""
        return bytes(self._inbox)

    def _close(self, last: bytes = b"") -> bytes:
        self.closed = True
        return last

    def _authentication_type(self) -> bytes | None:
        if (chosen := self._inbox.take(1)) is None:
            return None
        if chosen[0] != _SAFE_COOKIE:
            return self._close()
        self._step = TorExtendedORPort._nonce
        return b""

    def _nonce(self) -> bytes | None:
        if (client_nonce := self._inbox.take(32)) is None:
            return None
        nonces = client_nonce + self._server_nonce
        self._client_hash = self._hash(b"client-to-server", nonces)
        self._step = TorExtendedORPort._proof
        return self._hash(b"server-to-client", nonces) + self._server_nonce

    def _proof(self) -> bytes | None:
        if (proof := self._inbox.take(32)) is None:
            return None
        if not hmac.compare_digest(proof, self._client_hash):
            return self._close(b"\x00")
        self._step = TorExtendedORPort._command
        return b"\x01"

    def _command(self) -> bytes | None:
        if len(self._inbox) < 4:
            return None
        command, size = (int.from_bytes(self._inbox[at : at + 2], "big") for at in (0, 2))
        if (message := self._inbox.take(4 + size)) is None:
            return None
        body = message[4:]
        if command == _USERADDR:
            self.user_address = _user_address(body)
            return self._close() if self.user_address is None else b""
        if command == _TRANSPORT:
            self.transport = body.decode("ascii", "replace")
            return b"" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.transport) else self._close()
        if command == _DONE:
            return self._decide()
        return b""  # tor ignores what it does not know

    def _decide(self) -> bytes:
        if self._inbox:  # nothing may follow before OKAY
            return self._close()
        if self._denies:
            return self._close(_DENY.to_bytes(2, "big") + bytes(2))
        self.accepted = True
        return _OKAY.to_bytes(2, "big") + bytes(2)

    def _hash(self, way: bytes, nonces: bytes) -> bytes:
        return hmac.digest(self._cookie, b"ExtORPort authentication " + way + b" hash" + nonces, "sha256")


def _user_address(body: bytes) -> str | None:
    """The address in *body*, or None if tor does not take it: a port may be missing, but not be wrong."""
    text = body.decode("ascii", "replace")
    host, _, port = text.rpartition(":")
    if port.isdecimal() and 0 < int(port) <= 65535 and _is_address(host):
        return text
    return text if _is_address(text) or _version(text) == 6 else None


def _is_address(text: str) -> bool:
    """Whether *text* is an IPv4 address, or an IPv6 address in brackets."""
    return _version(text[1:-1]) == 6 if text.startswith("[") and text.endswith("]") else _version(text) == 4


def _version(text: str) -> int:
    try:
        return ip_address(text).version
    except ValueError:
        return 0
