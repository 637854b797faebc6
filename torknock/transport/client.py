"""The client's side: tor's SOCKS request with a bridge line's arguments, a knock, a channel behind it."""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from pluggable.errors import MethodError, SOCKSError
from pluggable.interfaces import IClientTransport, Request
from torknock.channel.interfaces import IChannel
from torknock.channel.raw import Raw
from torknock.channel.tls import ClientTLS
from torknock.dial.knocking import Knocker
from torknock.line import Line, LineError, parse_arguments
from torknock.linux import NO_CAPABILITY, may_administer_network

PROXY_ERROR = "torknock cannot knock through a proxy: the SYN that the bridge sees would be the proxy's own"
"""What tor is told when its user asks for a proxy (protocol.md §2.5)."""


@implementer(IClientTransport)
class KnockClient:
    """The transport that tor's `ClientTransportPlugin torknock` is."""

    def __init__(self, reactor: Any, knocker: Knocker) -> None:
        self._reactor = reactor
        self._knocker = knocker
        self._channels: dict[str, IChannel] = {"tls": ClientTLS(reactor), "raw": Raw()}

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
        """Nothing outlives tor's requests."""


@implementer(IStreamClientEndpoint)
@define
class _Bridge:
    _reactor: Any
    _knocker: Knocker
    _channel: IChannel
    _line: Line
    _host: str
    _port: int

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        knocked = await self._knocker.knock(self._line, self._host, self._port)
        upper = factory.buildProtocol(None)
        lower, opened = self._channel.open(self._line, knocked.isn, self._host, upper)
        with knocked.socket as connected:
            self._reactor.adoptStreamConnection(connected.fileno(), connected.family, Factory.forProtocol(lambda: lower))
        await opened
        return upper
