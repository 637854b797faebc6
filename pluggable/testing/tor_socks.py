"""tor's half of SOCKS5, with the arguments of a bridge line (pt-spec §3.5). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from pluggable.inbox import Inbox

_USERNAME_LIMIT, _ARGUMENTS_LIMIT = 255, 510
_REPLY_SIZES = {1: 10, 4: 22}
"""The sizes of a reply, by the type of the address in it."""


class SOCKSAnswerFault(Exception):
    """The transport's answer is none of SOCKS5's; tor would close the connection."""


def written_arguments(arguments: Iterable[tuple[str, str]]) -> bytes:
    """The arguments of a bridge line as tor sends them: it escapes `;` and the backslash, but not `=`."""
    text = ";".join(re.sub(r"([;\\])", r"\\\1", f"{key}={value}") for key, value in arguments)
    return text.encode("utf-8", "surrogateescape")


class TorSOCKS:
    """The connection to *address*, an IP literal, and *port* that tor asks a transport for.

    *arguments* are those of the bridge line; tor refuses lines with more than 510 octets of them: `ValueError`.
    """

    def __init__(self, address: str, port: int, arguments: Iterable[tuple[str, str]] = ()) -> None:
        self._arguments = written_arguments(arguments)
        if len(self._arguments) > _ARGUMENTS_LIMIT:
            raise ValueError(f"{len(self._arguments)} octets of arguments; SOCKS5 carries {_ARGUMENTS_LIMIT}")
        packed = ip_address(address).packed
        self._request = b"\x05\x01\x00" + (b"\x01" if len(packed) == 4 else b"\x04") + packed + port.to_bytes(2, "big")
        self._inbox = Inbox()
        self._step: Callable[[TorSOCKS], bytes | None] = TorSOCKS._method
        self.reply: int | None = None
        """The REP octet of the answer (RFC 1928 §6), 0 for success; 1 if the transport refuses before it."""

    def greeting(self) -> bytes:
        """What tor sends first."""
        return b"\x05\x02\x00\x02" if self._arguments else b"\x05\x01\x00"

    def feed(self, octets: bytes) -> bytes:
        """Take what the transport sent, in pieces of any size; return what tor sends now. Raises `SOCKSAnswerFault`."""
        self._inbox += octets
        answer = b""
        while self.reply is None and (to_send := self._step(self)) is not None:
            answer += to_send
        return answer

    @property
    def rest(self) -> bytes:
        """What the transport sent after its reply: the bridge's first octets."""
        return bytes(self._inbox)

    def _method(self) -> bytes | None:
        if (answer := self._inbox.take(2)) is None:
            return None
        if answer == b"\x05\xff":
            self.reply = 1
            return b""
        if answer == b"\x05\x02" and self._arguments:
            self._step = TorSOCKS._status
            username, password = self._arguments[:_USERNAME_LIMIT], self._arguments[_USERNAME_LIMIT:] or b"\0"
            return b"\x01" + bytes([len(username)]) + username + bytes([len(password)]) + password
        if answer == b"\x05\x00":
            self._step = TorSOCKS._reply
            return self._request
        raise SOCKSAnswerFault(f"not an authentication method that tor offered: {answer.hex()}")

    def _status(self) -> bytes | None:
        if (answer := self._inbox.take(2)) is None:
            return None
        if answer[1]:
            self.reply = 1
            return b""
        self._step = TorSOCKS._reply
        return self._request

    def _reply(self) -> bytes | None:
        if len(self._inbox) < 4:
            return None
        if self._inbox[0] != 5 or self._inbox[3] not in _REPLY_SIZES:
            raise SOCKSAnswerFault(f"not a reply of SOCKS5: {self._inbox[:4].hex()}")
        if (reply := self._inbox.take(_REPLY_SIZES[self._inbox[3]])) is None:
            return None
        self.reply = reply[1]
        return b""
