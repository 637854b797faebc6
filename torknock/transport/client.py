"""The client's side: tor's SOCKS request with a bridge line's arguments, a knock, a channel behind it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer

from pluggable.environment import ClientEnvironment
from pluggable.errors import ConnectionRefused, HostUnreachable, MethodError, SOCKSError
from pluggable.interfaces import IClientTransport, Request
from pluggable.managed import main
from torknock.channel.interfaces import ChannelFailed, IClientChannel
from torknock.channel.raw import Raw
from torknock.channel.tls import ClientTLS
from torknock.dial.knocking import BridgeSilent, Knocker
from torknock.dial.memory import Memory
from torknock.dial.repair import RepairDialer
from torknock.errors import TorknockError
from torknock.line import Line, LineError, parse_arguments
from torknock.linux import NO_CAPABILITY, may_administer_network

PROXY_ERROR = "torknock cannot knock through a proxy: the SYN that the bridge sees would be the proxy's own"
"""What tor is told when its user asks for a proxy (protocol.md §2.5)."""


def serve(reactor: Any, environ: Mapping[str, str], now: Callable[[], float], version: str) -> NoReturn:
    """Be the transport that tor asks for in *environ*, in a *reactor* that is started for it."""
    main(
        reactor,
        environ,
        implementation="torknock",
        version=version,
        clients={"torknock": lambda environment: KnockClient(reactor, environment, now)},
        proxy_error=PROXY_ERROR,
    )


@implementer(IClientTransport)
class KnockClient:
    """The transport that tor's `ClientTransportPlugin torknock` is."""

    def __init__(self, reactor: Any, environment: ClientEnvironment, now: Callable[[], float]) -> None:
        chance = secrets.SystemRandom()
        dialer = RepairDialer(reactor, environment.outbound_bind_v4, environment.outbound_bind_v6)
        self._reactor = reactor
        self._memory = Memory(environment.state_location)
        self._knocker = Knocker(dialer, reactor, now, chance, self._memory)
        self._channels: dict[str, IClientChannel] = {"tls": ClientTLS(reactor, chance), "raw": Raw()}

    def start(self) -> Deferred[None]:
        """See to it that a knock is possible here. Fails with `MethodError` that says what to do."""
        return succeed(None) if may_administer_network() else fail(MethodError(NO_CAPABILITY))

    def endpoint(self, request: Request) -> IStreamClientEndpoint:
        """The bridge that *request* names. Raises `SOCKSError` if its arguments are no line of ours."""
        try:
            line = parse_arguments(request.arguments)
        except LineError as error:
            raise SOCKSError(str(error)) from error
        return _Bridge(self._reactor, self._knocker, self._channels[line.channel], line, request.address, request.port)

    def stop(self) -> None:
        """Let go of the memory of used tokens."""
        self._memory.close()


@implementer(IStreamClientEndpoint)
@define
class _Bridge:
    _reactor: Any
    _knocker: Knocker
    _channel: IClientChannel
    _line: Line
    _host: str
    _port: int

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            knocked = await self._knocker.knock(self._line, self._host, self._port)
        except BridgeSilent as error:
            raise (ConnectionRefused if error.refused else HostUnreachable)(str(error)) from error
        except TorknockError as error:
            raise SOCKSError(str(error)) from error
        upper = factory.buildProtocol(IPv4Address("TCP", self._host, self._port))
        assert upper is not None  # noqa: S101  nobody has asked for the connection to be refused
        lower, opened = self._channel.open(self._line, knocked.isn, self._host, upper)
        with knocked.socket as connected:
            self._reactor.adoptStreamConnection(connected.fileno(), connected.family, _Connected(lower))
        try:
            await opened
        except ChannelFailed as error:
            self._knocker.disappointed(self._line, self._host, self._port)
            raise SOCKSError(str(error)) from error
        return upper


class _Connected(Factory):
    """Gives a connection that stands its protocol."""

    noisy = False

    def __init__(self, lower: IProtocol) -> None:
        self._lower = lower

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:  # type: ignore[override]  # Twisted asks for less
        return self._lower
