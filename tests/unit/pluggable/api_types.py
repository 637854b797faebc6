"""The public names of `pluggable`, as the author of a transport uses them. It is not run: its types are checked.

Each `type: ignore` is a mistake that the types must find; one that finds nothing is an error itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint, IStreamServerEndpoint
from zope.interface import implementer

import pluggable
from pluggable import testing
from pluggable.testing import MemoryNetwork, MemoryTor


@implementer(pluggable.IClientTransport)
class Client:
    """The client's side."""

    def __init__(self, reactor: Any, environment: pluggable.ClientEnvironment) -> None:
        self._reactor = reactor
        assert_type(environment.state_location, Path)
        assert_type(environment.transports, tuple[str, ...])
        assert_type(environment.exit_on_stdin_close, bool)
        assert_type(environment.outbound_bind("192.0.2.1"), str | None)
        assert_type(environment.proxy, pluggable.Proxy | None)
        if environment.proxy is not None:
            assert_type(environment.proxy.scheme, str)
            assert_type((environment.proxy.host, environment.proxy.port), tuple[str, int])
            assert_type((environment.proxy.user, environment.proxy.password), tuple[str | None, str | None])
        environment.state_location = Path("/")  # type: ignore[misc]  # it is frozen

    def start(self) -> Deferred[None]:
        """Ready at once."""
        return succeed(None)

    def endpoint(self, request: pluggable.Request) -> IStreamClientEndpoint:
        """The bridge."""
        assert_type(request.arguments, tuple[tuple[str, str], ...])
        assert_type(request.deadline, float)
        if dict(request.arguments).get("key") is None:
            raise pluggable.NotAllowed("no key=")
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(self._reactor, request.address, request.port)
        return endpoint

    def stop(self) -> Deferred[None] | None:
        """Nothing to stop."""
        return None


@implementer(pluggable.IServerTransport)
class Server:
    """The server's side."""

    def __init__(self, reactor: Any, environment: pluggable.ServerEnvironment) -> None:
        self._reactor = reactor
        assert_type(environment.bind_addresses, Mapping[str, tuple[str, int]])
        assert_type(environment.extended_or_port, tuple[str, int] | None)
        assert_type(environment.auth_cookie_file, Path | None)
        environment.proxy  # type: ignore[attr-defined]  # noqa: B018  only a client has one

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        """Where clients arrive."""
        if options:
            raise pluggable.MethodError("no options")
        endpoint: IStreamServerEndpoint = TCP4ServerEndpoint(self._reactor, bind_address[1], interface=bind_address[0])
        return endpoint

    def smethod_args(self) -> Mapping[str, str]:
        """Nothing to publish."""
        return {}


@implementer(pluggable.IClientTransport)
class Endless:  # type: ignore[misc]  # it has no `stop`
    """A client that lacks a method."""

    def start(self) -> Deferred[None]:
        """Ready at once."""
        return succeed(None)

    def endpoint(self, request: pluggable.Request) -> IStreamClientEndpoint:
        """No bridge."""
        raise pluggable.SOCKSError("none")


class Places:
    """Room for one connection."""

    def take(self) -> bool:
        """Take the place."""
        return True

    def give_back(self) -> None:
        """Give it back."""


def program(reactor: Any) -> None:
    """What stands at the end of a transport's program."""
    pluggable.main(
        reactor, os.environ, implementation="rot", version="1.0",
        clients={"rot": lambda environment: Client(reactor, environment)},
        servers={"rot": lambda environment: Server(reactor, environment)},
        proxy_error=None, socks_users=[104], places=Places(), dial_limit=120.0,
    )  # fmt: skip


async def embedded(reactor: Any) -> None:
    """A program that starts its reactor itself."""
    makers = {"rot": lambda environment: Server(reactor, environment)}
    code = await pluggable.run(
        reactor, {}, implementation="rot", version="1.0", servers=makers, stdin=0, stdout=1
    )
    assert_type(code, int)
    await pluggable.run(reactor, {}, implementation="rot", version="1", clients=makers)  # type: ignore[arg-type]
    await pluggable.run(reactor, {}, implementation="rot", version=1)  # type: ignore[arg-type]
    await pluggable.run(reactor, {}, implementation="rot")  # type: ignore[call-arg]
    await pluggable.run(reactor, {}, implementation="rot", version="1", places=3)  # type: ignore[arg-type]
    await pluggable.run(reactor, {}, "rot", "1")  # type: ignore[call-arg]  # they are keywords


async def held(factory: pluggable.ORPortFactory, client: IAddress) -> None:
    """A server that introduces its clients itself."""
    arrival = factory.arrival()
    tor = await arrival.introduce(client)
    if tor is not None:
        assert_type(tor.hung_up, bool)
    await factory.probe()
    tor.abort()  # type: ignore[union-attr]  # it may be None
    await arrival.introduce("192.0.2.1")  # type: ignore[arg-type]  # no IAddress


def replies() -> list[int]:
    """What tor is told of each failure."""
    kinds: list[type[pluggable.SOCKSError]] = [
        pluggable.SOCKSError, pluggable.NotAllowed, pluggable.NetworkUnreachable, pluggable.HostUnreachable,
        pluggable.ConnectionRefused, pluggable.TTLExpired, pluggable.AddressTypeNotSupported,
    ]  # fmt: skip
    kinds.append(pluggable.MethodError)  # type: ignore[arg-type]  # it is none of SOCKS
    return [kind.reply for kind in kinds]


async def tested(directory: Path) -> None:
    """A test of both sides."""
    network = MemoryNetwork()
    network.silent.add(("192.0.2.1", 443))
    tor = MemoryTor(network, directory)
    await tor.start_server({"rot": lambda environment: Server(network, environment)}, {"rot": "192.0.2.1:0"}, "rot:a=b")
    await tor.start_client({"rot": lambda environment: Client(network, environment)}, proxy="socks5://127.0.0.1:9")
    assert_type(tor.output, testing.TorOutput)
    assert_type(tor.output.methods, dict[str, testing.Method])
    assert_type(tor.output.logs, list[testing.LogLine])
    try:
        link = await tor.connect("rot", "192.0.2.1", 443, [("key", "value")])
    except testing.SOCKSRefused as refused:
        assert_type(refused.reply, int)
        return
    assert_type(link, testing.LinkToBridge)
    assert_type(await link.receive(5), bytes)
    assert_type(tor.clients, list[testing.LinkToClient])
    links: list[testing.TorLink] = [link, *tor.clients]
    links[0].write("text")  # type: ignore[arg-type]  # no octets
    assert_type(await tor.close_stdin(), int)
    MemoryTor(network)  # type: ignore[call-arg]  # no directory
    tor.connect("rot", "192.0.2.1", "443")  # type: ignore[arg-type]


def conversations(directory: Path) -> bytes:
    """tor's halves of the conversations, for a test of a whole program."""
    environ = testing.client_environment(["rot"], directory)
    environ |= testing.server_environment({"rot": "192.0.2.1:0"}, directory, or_port="127.0.0.1:1")
    assert_type(environ, dict[str, str])
    testing.cookie_file(directory).write_bytes(testing.COOKIE_HEADER + bytes(32))
    socks = testing.TorSOCKS("192.0.2.1", 443, [("key", "value")])
    orport = testing.TorExtendedORPort(bytes(32), bytes(32), denies=True)
    try:
        return socks.greeting() + socks.feed(b"") + orport.greeting() + orport.feed(b"")
    except testing.SOCKSAnswerFault:
        return socks.rest + orport.rest
