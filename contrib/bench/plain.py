"""A server transport without a gate and without a channel: what is left is `pluggable`'s relay. Only for comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import implementer

from pluggable.interfaces import IServerTransport
from pluggable.managed import main


@implementer(IServerTransport)
class Plain:
    """Listens where tor says, like any transport."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        """The public port itself."""
        return TCP4ServerEndpoint(self._reactor, bind_address[1], interface=bind_address[0])

    def smethod_args(self) -> Mapping[str, str]:
        """None."""
        return {}


if __name__ == "__main__":
    from twisted.internet import reactor

    main(reactor, os.environ, implementation="plain", version="0", servers={"plain": lambda _: Plain(reactor)})
