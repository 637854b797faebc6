"""The SOCKS port of a client transport: reads tor's request, dials the bridge, answers, and joins the two links.

The law of one connection:

1. `opened`, once. The limit of the handshake runs from then on, until the request is complete or refused.
2. `received`, any number of times. The request is complete once, and starts one dial. tor sends nothing more until it
   has the reply; what it sends all the same refuses the request.
3. The dial ends once: by success, by a failure, by its limit, or because it is cancelled.
4. Either success is written and the links are joined, or one refusal is written and tor's link is closed. Never both,
   and nothing is written after a refusal.
5. `lost`, once, at any time after `opened`. It cancels a dial that goes on and cuts a bridge's link that is not joined.
   Nothing is logged then: tor has changed its mind.

A place is taken at most once, in `opened`, and given back in `lost`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from pluggable.errors import ConnectionRefused, SOCKSError, TTLExpired
from pluggable.interfaces import IClientTransport, Places, Request
from pluggable.local_users import LocalUsers
from pluggable.relay import Half, Links, Single, join
from pluggable.socks import SOCKS5, SUCCEEDED, socks_error

_log = Logger()

HANDSHAKE_LIMIT = 5.0
"""Seconds that tor has for its request."""

DIAL_LIMIT = 35.0
"""Seconds that a transport has to reach its bridge, if it names no other limit; tor itself would wait for minutes."""

_EXPECTED = (
    SOCKSError, OSError, CancelledError, error.ConnectError, error.ConnectionClosed, error.ConnectionLost,
    error.ConnectionDone, defer.TimeoutError,
)  # fmt: skip
"""Failures of a dial that need no traceback in the log."""


@dataclass(frozen=True, slots=True)
class SOCKSLimits:
    """Which connections a SOCKS port serves, how many at once, and for how long a bridge is dialled."""

    users: LocalUsers | None = None
    """Connections of other users are closed without an answer; None serves every user."""
    places: Places | None = None
    """A request without a place is answered with a general failure; None serves every request."""
    dial_limit: float = DIAL_LIMIT
    """Seconds after which a bridge that was not reached is given up."""


_NO_LIMITS = SOCKSLimits()


class SOCKSFactory(Factory[Half]):
    """Serves tor's requests for transport *name*; *clock* measures the limits of time."""

    noisy = False

    def __init__(
        self, clock: Any, name: str, transport: IClientTransport, links: Links, limits: SOCKSLimits = _NO_LIMITS
    ) -> None:
        self.clock, self.name, self.transport, self.links, self.limits = clock, name, transport, links, limits

    def buildProtocol(self, addr: IAddress | None) -> Half:
        """A link for tor's next connection."""
        return Half(_Opening(self))


class _Opening:
    """The opening of tor's link, up to the reply."""

    rest = b""

    def __init__(self, factory: SOCKSFactory) -> None:
        self._factory = factory
        self._has_place = False
        self._socks = SOCKS5()
        self._upstream = Half()
        self._dialling: Deferred[None] | None = None
        self._refused = self._joined = False

    def opened(self, half: Half) -> None:
        factory, limits = self._factory, self._factory.limits
        self._half = half
        factory.links.add(half)
        timeout = TTLExpired(f"tor sent no request within {HANDSHAKE_LIMIT:.0f} s")
        self._timeout = factory.clock.callLater(HANDSHAKE_LIMIT, self._refuse, timeout)
        peer, here = half.transport.getPeer(), half.transport.getHost()
        if limits.users is not None and not limits.users.may_connect(peer, here):
            self._refused = True
            half.abort()
        elif limits.places is not None:
            self._has_place = limits.places.take()

    def received(self, octets: bytes) -> None:
        if self._refused:
            return
        try:
            self._half.transport.write(self._socks.feed(octets))
        except SOCKSError as failure:
            self._refuse(failure)
            return
        if self._socks.request is not None and self._dialling is None:
            if self._factory.limits.places is not None and not self._has_place:  # `Places.take` has logged it
                self._answer(SOCKSError("too many connections"))
                return
            self._timeout.cancel()
            self._dialling = Deferred.fromCoroutine(self._dial(self._socks.request))
            self._dialling.addErrback(self._failed)

    def lost(self, reason: Failure) -> None:
        self._factory.links.discard(self._half)
        if self._factory.limits.places is not None and self._has_place:
            self._factory.limits.places.give_back()
        if not self._joined:
            self._abandon()

    async def _dial(self, request: Request) -> None:
        upstream, clock, limit = self._upstream, self._factory.clock, self._factory.limits.dial_limit
        request = replace(request, deadline=clock.seconds() + limit)
        dialling = self._factory.transport.endpoint(request).connect(Single(upstream))
        await dialling.addTimeout(limit, clock, _timed_out)
        if upstream.lost:
            raise ConnectionRefused("the bridge closed the connection at once")
        if upstream.transport is None:
            raise SOCKSError("the transport reports a connection that it has not made")
        self._half.transport.write(SUCCEEDED)
        self._joined = True
        join(self._half, upstream)

    def _failed(self, failure: Failure) -> None:
        if self._half.lost or self._refused:
            return
        if not failure.check(*_EXPECTED):
            _log.failure("{transport}: dialling the bridge", failure, transport=self._factory.name)
        cause = failure.value
        self._refuse(socks_error(cause) if cause is not None else SOCKSError("no cause"))

    def _refuse(self, failure: SOCKSError) -> None:
        _log.warn("{transport}: {reason}", transport=self._factory.name, reason=str(failure))
        self._answer(failure)

    def _answer(self, failure: SOCKSError) -> None:
        self._refused = True
        self._half.transport.write(self._socks.refusal(failure))
        self._half.transport.loseConnection()
        self._abandon()

    def _abandon(self) -> None:
        if self._timeout.active():
            self._timeout.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._upstream.transport is not None and not self._upstream.lost:
            self._upstream.abort()


def _timed_out(_result: object, seconds: float) -> Failure:
    return Failure(TTLExpired(f"the bridge was not reached within {seconds:.0f} s"))
