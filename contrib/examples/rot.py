#!/usr/bin/env python3
"""A whole pluggable transport on `pluggable`: it adds 128 to every octet, and hides nothing from anybody."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attrs import define
from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from pluggable import (
    ClientEnvironment,
    IClientTransport,
    IServerTransport,
    MethodError,
    Request,
    ServerEnvironment,
    main,
)

TURNED = bytes((octet + 128) % 256 for octet in range(256))


class Rot(ProtocolWrapper):
    """A link whose octets are turned on their way out and back on their way in."""

    def write(self, data: bytes) -> None:
        """Turn *data*, and send it."""
        assert self.transport is not None
        self.transport.write(data.translate(TURNED))

    def dataReceived(self, data: bytes) -> None:
        """Turn *data* back."""
        self.wrappedProtocol.dataReceived(data.translate(TURNED))


@implementer(IStreamClientEndpoint, IStreamServerEndpoint)
@define
class Turned:
    """An endpoint whose links are `Rot`s."""

    _endpoint: Any

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """A link that leaves."""
        return self._endpoint.connect(_turning(protocolFactory))  # type: ignore[no-any-return]

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Links that arrive."""
        return self._endpoint.listen(_turning(protocolFactory))  # type: ignore[no-any-return]


def _turning(factory: IProtocolFactory) -> WrappingFactory[Rot]:
    turning: WrappingFactory[Rot] = WrappingFactory(factory)
    turning.protocol, turning.noisy = Rot, False
    return turning


@implementer(IClientTransport)
@define
class RotClient:
    """The client's side."""

    _environment: ClientEnvironment

    def start(self) -> Deferred[None]:
        """There is nothing to make ready."""
        return succeed(None)

    def endpoint(self, request: Request) -> Turned:
        """The bridge at the address of its line, reached from where tor wants it."""
        kind = endpoints.TCP6ClientEndpoint if ":" in request.address else endpoints.TCP4ClientEndpoint
        source = self._environment.outbound_bind(request.address)
        return Turned(kind(reactor, request.address, request.port, bindAddress=(source, 0) if source else None))

    def stop(self) -> None:
        """There is nothing to take back."""


@implementer(IServerTransport)
@define
class RotServer:
    """The server's side."""

    _environment: ServerEnvironment

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> Turned:
        """The address that tor names."""
        if options:
            raise MethodError("ServerTransportOptions: rot has none")
        host, port = bind_address
        kind = endpoints.TCP6ServerEndpoint if ":" in host else endpoints.TCP4ServerEndpoint
        return Turned(kind(reactor, port, interface=host))

    def smethod_args(self) -> Mapping[str, str]:
        """Nothing that a client would have to know."""
        return {}


if __name__ == "__main__":
    main(reactor, os.environ, implementation="rot", version="1", clients={"rot": RotClient}, servers={"rot": RotServer})
