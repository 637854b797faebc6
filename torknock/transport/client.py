"""The client's side: tor's SOCKS request with a bridge line's arguments, a knock, a channel behind it."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
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
from torknock.channel.interfaces import ChannelFailed, IClientChannel
from torknock.channel.raw import Raw
from torknock.channel.tls import ClientTLS
from torknock.dial.interfaces import CannotKnock
from torknock.dial.knocking import BridgeSilent, Knocked, Knocker
from torknock.dial.memory import Memory
from torknock.dial.remote import RemoteDialer
from torknock.dial.repair import RepairDialer
from torknock.dial.stealth import StealthKnocker
from torknock.errors import TorknockError
from torknock.helper import DIAL_SOCKET
from torknock.line import Line, LineError, parse_arguments
from torknock.linux import may_administer_network
from torknock.transport.first import FirstOctets

PROXY_ERROR = "torknock cannot knock through a proxy: the SYN that the bridge sees would be the proxy's own"
"""What tor is told when its user asks for a proxy."""

_NO_WAY: Mapping[int | None, type[SOCKSError]] = {
    errno.ENETUNREACH: NetworkUnreachable,
    errno.EHOSTUNREACH: HostUnreachable,
}


def serve(
    reactor: Any, environ: Mapping[str, str], now: Callable[[], float], version: str, helper: str
) -> NoReturn:
    """Be the transport that tor asks for in *environ*, in a *reactor* that is started for it.

    *helper* is the socket of `torknock dial`, for a process without CAP_NET_ADMIN.
    """
    main(
        reactor,
        environ,
        implementation="torknock",
        version=version,
        clients={"torknock": lambda environment: KnockClient(reactor, environment, now, helper)},
        proxy_error=PROXY_ERROR,
    )


@implementer(IClientTransport)
class KnockClient:
    """The transport that tor's `ClientTransportPlugin torknock` is."""

    def __init__(
        self, reactor: Any, environment: ClientEnvironment, now: Callable[[], float], helper: str = DIAL_SOCKET
    ) -> None:
        chance = secrets.SystemRandom()
        bind = environment.outbound_bind_v4, environment.outbound_bind_v6
        dialer = RepairDialer(reactor, *bind) if _has_the_capability() else RemoteDialer(reactor, helper, *bind)
        self._reactor = reactor
        self._dialer = dialer
        self._memory = Memory(environment.state_location)
        self._knocker = Knocker(dialer, reactor, now, chance, self._memory)
        self._stealth_knocker = StealthKnocker(dialer, reactor, chance)
        self._channels: dict[str, IClientChannel] = {"tls": ClientTLS(reactor, chance), "raw": Raw()}

    def start(self) -> Deferred[None]:
        """See to it that a knock is possible here. Fails with `MethodError` that says what to do."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if isinstance(self._dialer, RemoteDialer):
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
        channel, address, port = self._channels[line.channel], request.address, request.port
        if line.scheme == "token":
            return _Bridge(self._reactor, self._knocker, channel, line, address, port)
        if line.integrity and line.channel != "raw":
            raise SOCKSError("the bridge line has integrity= and channel=tls, which do not go together; get another")
        if not line.integrity:
            return _Bridge(self._reactor, self._stealth_knocker, channel, line, address, port)

        def dialled(payload: bytes) -> IStreamClientEndpoint:
            return _Bridge(self._reactor, self._stealth_knocker.covering(payload), channel, line, address, port)

        return FirstOctets(line.integrity, _named(address, port), dialled)

    def stop(self) -> None:
        """Let go of the memory of used tokens."""
        self._memory.close()


def _has_the_capability() -> bool:
    try:
        return may_administer_network()
    except OSError as error:
        why = f"this kernel does not let torknock choose an ISN: {error.strerror}; use Linux's"
        raise MethodError(why) from error


@implementer(IStreamClientEndpoint)
@define
class _Bridge:
    _reactor: Any
    _knocker: Knocker | StealthKnocker
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
            raise (ConnectionRefused if error.refused else TTLExpired)(str(error)) from error
        except CannotKnock as error:
            raise _NO_WAY.get(error.number, SOCKSError)(str(error)) from error
        except TorknockError as error:
            raise SOCKSError(str(error)) from error
        try:
            return await self._carried(knocked, factory)
        except ChannelFailed as error:
            self._knocker.disappointed(self._line, self._host, self._port)
            raise SOCKSError(str(error)) from error
        except OSError as error:  # a RST came right behind the SYN-ACK
            self._knocker.disappointed(self._line, self._host, self._port)
            raise ConnectionRefused(f"the connection was lost as soon as it stood: {error.strerror}") from error

    async def _carried(self, knocked: Knocked, factory: IProtocolFactory) -> IProtocol:
        """The service's protocol, once the channel says that this is the bridge."""
        with knocked.socket as connected:
            upper = factory.buildProtocol(_named(self._host, self._port))
            assert upper is not None  # noqa: S101  nobody has asked for the connection to be refused
            below = _Below(lambda: self._channel.open(self._line, knocked.isn, self._host, upper))
            self._reactor.adoptStreamConnection(connected.fileno(), connected.family, below)
        await below.opened
        return upper


def _named(host: str, port: int) -> IPv4Address | IPv6Address:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


class _Below(Factory):
    """Gives a connection that stands its channel."""

    noisy = False
    opened: Deferred[None]

    def __init__(self, open_channel: Callable[[], tuple[IProtocol, Deferred[None]]]) -> None:
        self._open_channel = open_channel

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:  # type: ignore[override]  # Twisted asks for less
        lower, self.opened = self._open_channel()
        return lower
