"""What a transport is: a pair of Twisted endpoints.

A link that a transport carries is an `ITransport` with `loseConnection`, `abortConnection`, `registerProducer`,
`unregisterProducer`, `pauseProducing` and `resumeProducing`, and perhaps `loseWriteConnection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint
from zope.interface import Interface

from pluggable.arguments import Arguments


@dataclass(frozen=True, slots=True)
class Request:
    """What tor asks a client for: the bridge's *address* (an IP literal), its *port*, the arguments of its line.

    The arguments stand in the line's order; a key may come twice, and unknown keys should be let pass.
    """

    address: str
    port: int
    arguments: Arguments = ()
    deadline: float = inf
    """When the request is given up and `connect` cancelled, in seconds of the reactor's clock."""


class Places(Protocol):
    """Room for so many connections at once."""

    def take(self) -> bool:
        """Whether there is a place; it is the caller's, to be given back."""

    def give_back(self) -> None:
        """A connection has ended that had a place."""


class IClientTransport(Interface):
    """A transport's client side."""

    def start() -> Deferred[None]:
        """Make ready, before tor is told of the transport. A failure with `MethodError` becomes `CMETHOD-ERROR`."""

    def endpoint(request: Request) -> IStreamClientEndpoint:
        """The bridge of *request*. Its `connect` fires once the bridge has answered: only then is tor told so.

        Raises `SOCKSError` if the arguments will not do. A failure of `connect` is told to tor by its cause;
        a `SOCKSError` tells its own.
        """

    def stop() -> Deferred[None] | None:
        """Take back whatever outlives a link. There are some three seconds for it."""


class IServerTransport(Interface):
    """A transport's server side."""

    def endpoint(bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        """Where clients arrive: exactly *bind_address*, port 0 for any. Raises `MethodError` for bad options.

        The `getHost()` of what its `listen` returns is what tor is told, and its `stopListening` the end. A failure
        of `listen` with `MethodError` or `CannotListenError` becomes `SMETHOD-ERROR`; an address in use is tried
        again for a few seconds. The factory is an `ORPortFactory`: its `buildProtocol` wants the client's address, or
        None. A transport that closes its port while tor takes no clients asks for an `arrival` instead, which tells
        whether tor took the client, and asks tor by `probe`.
        """

    def smethod_args() -> Mapping[str, str]:
        """What tor may publish and put into bridge lines: never a secret, nothing that needs an escape.

        Asked for once `listen` has succeeded.
        """
