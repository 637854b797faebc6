"""Clients of a server's transport, and their way to tor.

The law of one client: its link opens once, and is paused until tor has taken it. `introduce` dials tor once, and ends
once: the links are joined; or tor does not take the client, which is logged, and the client's link is cut; or the
client leaves first, which cancels the dial and is not logged. Nothing of the client reaches tor before tor's OKAY.

`probe` may run beside any number of clients. The port that it finds is used for the clients that come after it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from pluggable.environment import ServerEnvironment
from pluggable.errors import ORPortError
from pluggable.extorport import HANDSHAKE_LIMIT, dial
from pluggable.listening_ports import listening_ports
from pluggable.relay import Buffered, Half, Links, join

_log = Logger()

_PROBE_DURATION = 1.0
"""Seconds for which a tor that takes clients leaves a silent link open."""

_RETRY_AFTER = 300.0
"""Seconds until a listener that was not tor's Extended ORPort is tried again."""


class Arrival(Buffered):
    """A client whose `link` is held, once it is connected, until `introduce` has joined it with a link to tor."""

    def __init__(self, factory: ORPortFactory) -> None:
        super().__init__()
        self._factory = factory
        self._dialling: Deferred[Half] | None = None
        self.link = Half(self)
        """The protocol for the client's connection."""

    def opened(self, half: Half) -> None:
        """The client is connected: read nothing from it yet."""
        super().opened(half)
        self._factory.links.add(half)
        half.transport.pauseProducing()

    async def introduce(self, client: IAddress | None) -> Half | None:
        """Join the link, which is connected, with a new link to tor, and return the latter.

        *client* is the address that tor is told; None if it is not known. If tor does not take the client, log why, cut
        the client's link and return None. Raises `CancelledError` if the client leaves first.
        """
        self._dialling = self._factory.dial(client)
        try:
            tor = await self._dialling
        except CancelledError:
            raise
        except Exception as error:
            if self.link.lost:
                raise CancelledError from error
            self._log_refusal(error)
            self.link.abort()
            return None
        join(self.link, tor)
        if not self.link.lost:
            self.link.transport.resumeProducing()
        return tor

    def _log_refusal(self, error: Exception) -> None:
        if isinstance(error, (ORPortError, ConnectError)):
            name, reason = self._factory.name, str(error)
            _log.error("{transport}: a client was turned away: {reason}", transport=name, reason=reason)
        else:
            _log.failure("{transport}: a client was turned away", transport=self._factory.name)

    def lost(self, reason: Failure) -> None:
        """The client has left."""
        self._factory.links.discard(self._half)
        if self._dialling is not None:
            self._dialling.cancel()


class _ImmediateArrival(Arrival):
    """A client that is introduced to tor as soon as it is connected."""

    def __init__(self, factory: ORPortFactory, client: IAddress | None) -> None:
        super().__init__(factory)
        self._client = client

    def opened(self, half: Half) -> None:
        super().opened(half)
        introducing = Deferred.fromCoroutine(self.introduce(self._client))
        introducing.addErrback(lambda failure: failure.trap(CancelledError))


def _timed_out(_result: object, seconds: float) -> Failure:
    return Failure(ORPortError(f"tor has not answered within {seconds:.0f} s"))


class ORPortFactory(Factory[Half]):
    """Brings the clients of transport *name* to tor."""

    noisy = False

    def __init__(self, reactor: Any, environment: ServerEnvironment, name: str, links: Links) -> None:
        self._reactor, self._environment = reactor, environment
        self.name, self.links = name, links
        self._tried: dict[int, float] = {}
        """When each other listener of this user was last tried as tor's new Extended ORPort, by its socket's inode."""

    def buildProtocol(self, addr: IAddress | None) -> Half:
        """A link for a client at *addr*, None if that is not known, that is joined with tor once it is connected."""
        return _ImmediateArrival(self, addr).link

    def arrival(self) -> Arrival:
        """A client that the caller introduces to tor, to know whether tor takes it."""
        return Arrival(self)

    def dial(self, client: IAddress | None) -> Deferred[Half]:
        """`dial` for *client*; fails with `ORPortError` too if that takes longer than `HANDSHAKE_LIMIT`."""
        return self._dial(self._environment, client)

    async def probe(self) -> None:
        """Return if tor takes a client now: connect as one, and disconnect. Raises what `dial` raises.

        A tor that has closed `ExtORPort auto`, as for hibernation, opens another port later, and does not tell its
        transports. So if nothing listens at the known port, this user's other listeners on that address are tried; the
        handshake proves which of them is tor.
        """
        try:
            await self._probe(self._environment)
        except ConnectionRefusedError:
            if not await self._find_moved_orport():
                raise

    async def _find_moved_orport(self) -> bool:
        """Whether tor takes clients at another port, which is used as its Extended ORPort from now on."""
        known = self._environment.extended_or_port
        if known is None:
            return False
        for inode, port in listening_ports(known[0], os.geteuid()).items():
            now = self._reactor.seconds()
            if now - self._tried.get(inode, -_RETRY_AFTER) < _RETRY_AFTER:
                continue
            self._tried[inode] = now
            moved = replace(self._environment, extended_or_port=(known[0], port))
            with contextlib.suppress(ORPortError, ConnectError):
                await self._probe(moved)
                self._environment = moved
                self._tried.clear()
                return True
        return False

    async def _probe(self, environment: ServerEnvironment) -> None:
        half = await self._dial(environment, None)
        try:
            await deferLater(self._reactor, _PROBE_DURATION)
            if half.lost:
                raise ORPortError("tor closes each connection at once")
        finally:
            if not half.lost:
                half.abort()

    def _dial(self, environment: ServerEnvironment, client: IAddress | None) -> Deferred[Half]:
        dialling = Deferred.fromCoroutine(dial(self._reactor, environment, self.name, client))
        return dialling.addTimeout(HANDSHAKE_LIMIT, self._reactor, _timed_out)
