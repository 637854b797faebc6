"""SOCKS5 with username and password as tor speaks it to a client transport (RFC 1928, RFC 1929, pt-spec §3.5)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

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
from pluggable.interfaces import IClientTransport, Places, Request
from pluggable.peers import LocalUsers
from pluggable.relay import Half, Links, Single, join

_log = Logger()

HANDSHAKE_LIMIT = 5.0
"""Seconds that tor has to say what it wants."""

DIAL_LIMIT = 35.0
"""Seconds that a transport has to reach its bridge, if it names no other limit; tor itself would wait for minutes."""

SUCCEEDED = b"\x05\x00\x00\x01" + bytes(6)
"""The reply that lets tor speak to its bridge. tor does not look at the bound address in it."""

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

_EXPECTED = (
    SOCKSError, OSError, CancelledError, error.ConnectError, error.ConnectionClosed, error.ConnectionLost,
    error.ConnectionDone, defer.TimeoutError,
)  # fmt: skip


def socks_error(cause: BaseException) -> SOCKSError:
    """*cause* as tor is told it: by its class, else by its errno, else as a general failure."""
    if isinstance(cause, SOCKSError):
        return cause
    kind = next((kind for causes, kind in _CAUSES if isinstance(cause, causes)), None)
    if kind is None:
        number = cause.osError if isinstance(cause, error.ConnectError) else getattr(cause, "errno", None)
        kind = _REPLIES.get(number, SOCKSError) if isinstance(number, int) else SOCKSError
    return kind(str(cause) or type(cause).__name__)


class SOCKS5:
    """The server's half of the conversation, up to tor's request: octets in, octets out, no I/O."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self._inbox = bytearray()
        self._arguments: tuple[tuple[str, str], ...] = ()
        self._step: Callable[[SOCKS5], bytes | None] = SOCKS5._greeting

    def feed(self, octets: bytes) -> bytes:
        """Take what tor sent, in pieces of any size; return what to send now, perhaps nothing.

        Raises `SOCKSError`; what has to be sent then is `refusal`'s to say, and the connection is to be closed.
        """
        self._inbox += octets
        answer = b""
        while self.request is None and (said := self._step(self)) is not None:
            answer += said
        if self.request is not None and self._inbox:
            raise SOCKSError("tor speaks to its bridge before there is one")
        return answer

    def refusal(self, failure: SOCKSError) -> bytes:
        """How *failure* is said at this point of the conversation."""
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
        raise SOCKSError("SOCKS: no method of authentication that we know")

    def _credentials(self) -> bytes | None:
        inbox = self._inbox
        if inbox and inbox[0] != 1:
            raise SOCKSError(f"SOCKS: username/password version {inbox[0]}, not 1")
        if len(inbox) < 2 or len(inbox) < 3 + inbox[1]:
            return None
        name_size, word_size = inbox[1], inbox[2 + inbox[1]]
        if not (name_size and word_size):
            raise SOCKSError("SOCKS: empty username or password")
        if len(inbox) < 3 + name_size + word_size:
            return None
        taken = self._take(3 + name_size + word_size)
        name, word = taken[2 : 2 + name_size], taken[3 + name_size :]
        try:
            self._arguments = parse_socks(name if word == b"\0" else name + word)
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


class _Opening:
    """The opening of tor's link: reads the request, dials the bridge, answers."""

    rest = b""

    def __init__(self, port: SOCKSFactory) -> None:
        self._port = port
        self._placed = False
        self._socks = SOCKS5()
        self._upstream = Half()
        self._dialling: Deferred[None] | None = None
        self._refused = self._joined = False

    def opened(self, half: Half) -> None:
        self._half = half
        self._port.links.add(half)
        too_late = TTLExpired("tor asked for nothing in time")
        self._limit = self._port.clock.callLater(HANDSHAKE_LIMIT, self._refuse, too_late)
        users, places = self._port.users, self._port.places
        if users is not None and not users.let_in(half.transport.getPeer(), half.transport.getHost()):
            self._refused = True
            half.abort()
        elif places is not None:
            self._placed = places.take()

    def received(self, octets: bytes) -> None:
        if self._refused:
            return
        try:
            self._half.transport.write(self._socks.feed(octets))
        except SOCKSError as failure:
            self._refuse(failure)
            return
        if self._socks.request is not None and self._dialling is None:
            if self._port.places is not None and not self._placed:  # `Places.take` has logged it
                self._answer(SOCKSError("too many connections"))
                return
            self._limit.cancel()
            self._dialling = Deferred.fromCoroutine(self._dial(self._socks.request))
            self._dialling.addErrback(self._failed)

    def lost(self, reason: Failure) -> None:
        self._port.links.discard(self._half)
        if self._port.places is not None and self._placed:
            self._port.places.give_back()
        if not self._joined:
            self._abandon()

    async def _dial(self, request: Request) -> None:
        upstream, port = self._upstream, self._port
        request = replace(request, deadline=port.clock.seconds() + port.dial_limit)
        dialling = port.transport.endpoint(request).connect(Single(upstream))
        await dialling.addTimeout(port.dial_limit, port.clock, _too_late)
        if upstream.lost:
            raise ConnectionRefused("the bridge closed the connection at once")
        if upstream.transport is None:
            raise SOCKSError("the transport has not connected what it says it has")
        self._half.transport.write(SUCCEEDED)
        self._joined = True
        join(self._half, upstream)

    def _failed(self, failure: Failure) -> None:
        if self._half.lost or self._refused:
            return
        if not failure.check(*_EXPECTED):
            _log.failure("{transport}: dialling the bridge", failure, transport=self._port.name)
        cause = failure.value
        self._refuse(socks_error(cause) if cause is not None else SOCKSError("no cause"))

    def _refuse(self, failure: SOCKSError) -> None:
        _log.warn("{transport}: {reason}", transport=self._port.name, reason=str(failure))
        self._answer(failure)

    def _answer(self, failure: SOCKSError) -> None:
        self._refused = True
        self._half.transport.write(self._socks.refusal(failure))
        self._half.transport.loseConnection()
        self._abandon()

    def _abandon(self) -> None:
        if self._limit.active():
            self._limit.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._upstream.transport is not None and not self._upstream.lost:
            self._upstream.abort()


def _too_late(_result: object, seconds: float) -> Failure:
    return Failure(TTLExpired(f"the bridge was not reached within {seconds:.0f} s"))


class SOCKSFactory(Factory[Half]):
    """Serves tor's requests for transport *name*; *clock* measures the limits of time.

    With *users*, connections of others are closed without an answer. Requests for which there are no *places* are
    answered with a general failure; those whose bridge is not reached within *dial_limit* seconds are given up.
    """

    noisy = False

    def __init__(
        self,
        clock: Any,
        name: str,
        transport: IClientTransport,
        links: Links,
        users: LocalUsers | None = None,
        places: Places | None = None,
        dial_limit: float = DIAL_LIMIT,
    ) -> None:
        self.clock, self.name, self.transport, self.links = clock, name, transport, links
        self.users, self.places, self.dial_limit = users, places, dial_limit

    def buildProtocol(self, addr: IAddress | None) -> Half:
        """A link for tor's next connection."""
        return Half(_Opening(self))
