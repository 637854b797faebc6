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

    The arguments stand in the line's order; a key may come twice. Ignore unknown keys.
    """

    address: str
    port: int
    arguments: Arguments = ()
    deadline: float = inf
    """When the request is given up and `connect` cancelled, in seconds of the reactor's clock."""


class Places(Protocol):
    """Room for so many connections at once."""

    def take(self) -> bool:
        """Take a place, to be given back; False if there is none."""

    def give_back(self) -> None:
        """Give back the place of a connection that has ended."""


class IClientTransport(Interface):
    """A transport's client side."""

    def start() -> Deferred[None]:
        """Prepare; tor is told of the transport afterwards. A failure with `MethodError` becomes `CMETHOD-ERROR`."""

    def endpoint(request: Request) -> IStreamClientEndpoint:
        """The bridge of *request*. Its `connect` fires once the bridge has answered; tor has its reply then.

        Raises `SOCKSError` if the arguments are wrong. The reply to a failure of `connect` is the one of its
        `SOCKSError`, or is chosen by its cause.
        """

    def stop() -> Deferred[None] | None:
        """Release what outlives a link, within three seconds."""


class IServerTransport(Interface):
    """A transport's server side."""

    def endpoint(bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        """Where clients arrive: exactly *bind_address*, port 0 for any. Raises `MethodError` for bad options.

        tor is told the `getHost()` of the port that `listen` returns; its `stopListening` is called at the end. A
        failure of `listen` with `MethodError` or `CannotListenError` becomes `SMETHOD-ERROR`; an address in use is
        tried again for five seconds. The factory is an `ORPortFactory`: its `buildProtocol` takes the client's
        address, or None. A transport that closes its port while tor takes no clients uses an `arrival` instead, which
        tells whether tor has taken the client, and asks tor by `probe`.
        """

    def smethod_args() -> Mapping[str, str]:
        """What tor may publish and put into bridge lines: never a secret, nothing that needs an escape.

        Asked for once `listen` has succeeded.
        """
