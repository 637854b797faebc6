"""SOCKS5 with username and password, as tor speaks it to a client transport (RFC 1928, RFC 1929, pt-spec §3.5).

No I/O: `SOCKS5` takes what tor sent and returns what to send. `socks_error` finds the reply to a failure.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import ip_address

from twisted.internet import defer, error

from pluggable.arguments import parse_socks
from pluggable.errors import (
    AddressTypeNotSupported,
    ArgumentsError,
    CommandNotSupported,
    ConnectionRefused,
    HostUnreachable,
    NetworkUnreachable,
    SOCKSError,
    TTLExpired,
)
from pluggable.interfaces import Request

SUCCEEDED = b"\x05\x00\x00\x01" + bytes(6)
"""The reply after which tor speaks to its bridge. tor does not look at the bound address in it."""

_NO_AUTHENTICATION, _USERNAME_PASSWORD, _NOTHING_ACCEPTABLE = 0, 2, 255
_CONNECT = 1
_ADDRESS_SIZES = {1: 4, 4: 16}

_REPLIES: dict[int, type[SOCKSError]] = {
    errno.ECONNREFUSED: ConnectionRefused,
    errno.ECONNRESET: ConnectionRefused,
    errno.ETIMEDOUT: TTLExpired,
    errno.ENETUNREACH: NetworkUnreachable,
    errno.EHOSTUNREACH: HostUnreachable,
    errno.EADDRNOTAVAIL: AddressTypeNotSupported,
}
_CAUSES: tuple[tuple[tuple[type[BaseException], ...], type[SOCKSError]], ...] = (
    ((error.ConnectionRefusedError, ConnectionRefusedError, ConnectionResetError), ConnectionRefused),
    ((error.ConnectionLost, error.ConnectionDone), ConnectionRefused),
    ((error.TimeoutError, defer.TimeoutError, TimeoutError), TTLExpired),
    ((error.NoRouteError,), NetworkUnreachable),
)


def socks_error(cause: BaseException) -> SOCKSError:
    """*cause* as an error with a reply for tor: by its class, else by its errno, else a general failure."""
    if isinstance(cause, SOCKSError):
        return cause
    kind = next((kind for causes, kind in _CAUSES if isinstance(cause, causes)), None)
    if kind is None:
        number = cause.osError if isinstance(cause, error.ConnectError) else getattr(cause, "errno", None)
        kind = _REPLIES.get(number, SOCKSError) if isinstance(number, int) else SOCKSError
    return kind(str(cause) or type(cause).__name__)


class SOCKS5:
    """The server's half of SOCKS5, up to tor's request."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self._inbox = bytearray()
        self._arguments: tuple[tuple[str, str], ...] = ()
        self._step: Callable[[SOCKS5], bytes | None] = SOCKS5._greeting

    def feed(self, octets: bytes) -> bytes:
        """Take what tor sent, in pieces of any size; return what to send now, perhaps nothing.

        Raises `SOCKSError`: send what `refusal` returns, and close the connection.
        """
        self._inbox += octets
        answer = b""
        while self.request is None and (to_send := self._step(self)) is not None:
            answer += to_send
        if self.request is not None and self._inbox:
            raise SOCKSError("tor sent more before it had the reply to its request")
        return answer

    def refusal(self, failure: SOCKSError) -> bytes:
        """The octets that refuse with *failure* at this point of the conversation."""
        if self._step is SOCKS5._greeting:
            return bytes([5, _NOTHING_ACCEPTABLE])
        if self._step is SOCKS5._credentials:
            return b"\x01\x01"
        return bytes([5, failure.reply, 0, 1]) + bytes(6)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._inbox[:size])
        del self._inbox[:size]
        return taken

    def _greeting(self) -> bytes | None:
        inbox = self._inbox
        if inbox and inbox[0] != 5:
            raise SOCKSError(f"SOCKS version {inbox[0]}, not 5")
        if len(inbox) < 2 or len(inbox) < 2 + inbox[1]:
            return None
        offered = self._take(2 + inbox[1])[2:]
        if _USERNAME_PASSWORD in offered:
            self._step = SOCKS5._credentials
            return bytes([5, _USERNAME_PASSWORD])
        if _NO_AUTHENTICATION in offered:
            self._step = SOCKS5._request
            return bytes([5, _NO_AUTHENTICATION])
        raise SOCKSError("SOCKS: no authentication method that is supported (0 or 2)")

    def _credentials(self) -> bytes | None:
        inbox = self._inbox
        if inbox and inbox[0] != 1:
            raise SOCKSError(f"SOCKS: username/password version {inbox[0]}, not 1")
        if len(inbox) < 2 or len(inbox) < 3 + inbox[1]:
            return None
        username_size, password_size = inbox[1], inbox[2 + inbox[1]]
        if not (username_size and password_size):
            raise SOCKSError("SOCKS: empty username or password")
        if len(inbox) < 3 + username_size + password_size:
            return None
        taken = self._take(3 + username_size + password_size)
        username, password = taken[2 : 2 + username_size], taken[3 + username_size :]
        try:
            self._arguments = parse_socks(username if password == b"\0" else username + password)
        except ArgumentsError as fault:
            raise SOCKSError(f"arguments of the bridge line: {fault}") from fault
        self._step = SOCKS5._request
        return b"\x01\x00"

    def _request(self) -> bytes | None:
        inbox = self._inbox
        if inbox and inbox[0] != 5:
            raise SOCKSError(f"SOCKS version {inbox[0]}, not 5")
        if len(inbox) < 4:
            return None
        if inbox[1] != _CONNECT:
            raise CommandNotSupported(f"SOCKS: command {inbox[1]}, not CONNECT")
        if inbox[3] not in _ADDRESS_SIZES:
            raise AddressTypeNotSupported(f"SOCKS: address type {inbox[3]}; only IP addresses can be dialled")
        size = _ADDRESS_SIZES[inbox[3]]
        if len(inbox) < 4 + size + 2:
            return None
        taken = self._take(4 + size + 2)
        address, port = ip_address(taken[4 : 4 + size]), int.from_bytes(taken[4 + size :], "big")
        if not port:
            raise SOCKSError("SOCKS: port 0")
        self.request = Request(str(address), port, self._arguments)
        return b""
