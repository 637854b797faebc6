"""The client's side: tor's SOCKS request with a bridge line's arguments, a knock, a channel behind it."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from pluggable.environment import ClientEnvironment
from pluggable.errors import (
    ConnectionRefused,
    HostUnreachable,
    MethodError,
    NetworkUnreachable,
    SOCKSError,
    TTLExpired,
)
from pluggable.interfaces import IClientTransport, Request
from pluggable.managed import main
from torknock.channel.shapes import exchanges_in
from torknock.client.choose_dialer import choose_dialer
from torknock.client.knocker import Knocker
from torknock.client.memory import Memory
from torknock.client.reach import Bridges
from torknock.client.round_errors import BridgeSilent
from torknock.client.rounds import REQUEST_WITHIN
from torknock.client.stealth import StealthKnocker
from torknock.errors import TorknockError
from torknock.interfaces import CannotKnock
from torknock.kernel.descriptor_limit import OF_A_REQUEST, of_transport
from torknock.kernel.interfaces import IReactor
from torknock.protocol.bridge_line import LineError, parse_arguments
from torknock.protocol.exchanges import BadExchanges
from torknock.protocol.token import epoch_at
from torknock.service import DIAL_SOCKET

PROXY_ERROR = "torknock cannot knock through a proxy: the SYN that the bridge sees would be the proxy's own"
"""What tor is told when its user asks for a proxy."""

_FORGETS_EVERY = 60.0
"""Seconds between two looks for used tokens that are to be forgotten."""

_NO_WAY: Mapping[int | None, type[SOCKSError]] = {
    errno.ENETUNREACH: NetworkUnreachable,
    errno.EHOSTUNREACH: HostUnreachable,
}


def serve(
    reactor: IReactor,
    environ: Mapping[str, str],
    now: Callable[[], float],
    version: str,
    service: str,
    files: int,
    socks_users: Collection[int] = (),
) -> NoReturn:
    """Be the transport that tor asks for in *environ*, in a *reactor* that is started for it.

    *service* is the socket of `torknock dial`, for a process without CAP_NET_ADMIN; *files* may be open at once;
    *socks_users* see `pluggable.run`.
    """
    main(
        reactor,
        environ,
        implementation="torknock",
        version=version,
        clients={"torknock": lambda environment: KnockClient(reactor, environment, now, service)},
        proxy_error=PROXY_ERROR,
        socks_users=socks_users,
        places=of_transport(files, OF_A_REQUEST),
        dial_limit=REQUEST_WITHIN,
    )


@implementer(IClientTransport)
class KnockClient:
    """The transport that tor's `ClientTransportPlugin torknock` is."""

    def __init__(
        self, reactor: IReactor, environment: ClientEnvironment, now: Callable[[], float], service: str = DIAL_SOCKET
    ) -> None:
        bind = environment.outbound_bind_v4, environment.outbound_bind_v6
        try:
            self._dialer = choose_dialer(reactor, service, *bind)
        except CannotKnock as error:
            raise MethodError(str(error)) from error
        try:
            site = exchanges_in(environment.state_location)
        except BadExchanges as error:
            raise MethodError(str(error)) from error
        self._memory = Memory(environment.state_location)
        chance = secrets.SystemRandom()
        knocker = Knocker(self._dialer, reactor, now, chance, self._memory)
        self._bridges = Bridges(reactor, knocker, StealthKnocker(self._dialer, reactor, chance), chance, site)
        self._forgetting = LoopingCall(lambda: self._memory.forget(epoch_at(now())))
        self._forgetting.clock = reactor

    def start(self) -> Deferred[None]:
        """See to it that a knock is possible here. Fails with `MethodError` that says what to do.

        From now on used tokens are forgotten in time, with and without knocks.
        """
        self._forgetting.start(_FORGETS_EVERY)
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            await self._dialer.ready()
        except CannotKnock as error:
            raise MethodError(str(error)) from error

    def endpoint(self, request: Request) -> IStreamClientEndpoint:
        """The bridge that *request* names. Raises `SOCKSError` if its arguments are no line of ours."""
        try:
            line = parse_arguments(request.arguments)
        except LineError as error:
            raise SOCKSError(str(error)) from error
        return SocksErrors(self._bridges.endpoint(line, request.address, request.port, request.deadline))

    def stop(self) -> None:
        """Let go of the memory of used tokens."""
        if self._forgetting.running:
            self._forgetting.stop()
        self._memory.close()


@implementer(IStreamClientEndpoint)
@define
class SocksErrors:
    """A bridge whose failures are told to tor by their causes."""

    _bridge: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`. Fails with `SOCKSError`."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            return await self._bridge.connect(factory)
        except BridgeSilent as error:
            raise (ConnectionRefused if error.refused else TTLExpired)(str(error)) from error
        except CannotKnock as error:
            raise _NO_WAY.get(error.number, SOCKSError)(str(error)) from error
        except TorknockError as error:
            raise SOCKSError(str(error)) from error
