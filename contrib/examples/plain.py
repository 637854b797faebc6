#!/usr/bin/env python3
"""A whole pluggable transport on `pluggable`: it carries everything as it is, and hides nothing."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred, succeed
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


@implementer(IClientTransport)
class PlainClient:
    """The client's side: where the bridge of tor's request is."""

    def __init__(self, reactor: Any, environment: ClientEnvironment) -> None:
        self._reactor, self._environment = reactor, environment

    def start(self) -> Deferred[None]:
        """There is nothing to make ready."""
        return succeed(None)

    def endpoint(self, request: Request) -> Any:
        """The bridge, reached from where tor wants it."""
        kind = endpoints.TCP6ClientEndpoint if ":" in request.address else endpoints.TCP4ClientEndpoint
        source = self._environment.outbound_bind(request.address)
        return kind(self._reactor, request.address, request.port, bindAddress=(source, 0) if source else None)

    def stop(self) -> None:
        """There is nothing to take back."""


@implementer(IServerTransport)
class PlainServer:
    """The server's side: where clients arrive."""

    def __init__(self, reactor: Any, environment: ServerEnvironment) -> None:
        self._reactor = reactor

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> Any:
        """The address that tor names."""
        if options:
            raise MethodError("ServerTransportOptions: plain has none")
        kind = endpoints.TCP6ServerEndpoint if ":" in bind_address[0] else endpoints.TCP4ServerEndpoint
        return kind(self._reactor, bind_address[1], interface=bind_address[0])

    def smethod_args(self) -> Mapping[str, str]:
        """Nothing that a client would have to know."""
        return {}


if __name__ == "__main__":
    clients, servers = {"plain": partial(PlainClient, reactor)}, {"plain": partial(PlainServer, reactor)}
    main(reactor, os.environ, implementation="plain", version="1", clients=clients, servers=servers)
