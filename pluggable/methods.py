"""Starts the transports that tor asks for, and reports each one as a method: CMETHOD or SMETHOD (pt-spec §3.3).

The law: VERSION comes first, then STATUS if a transport of ours is asked for. Then each transport is started in tor's
order, one after the other, and reported once, as a method or as an error. DONE comes last, and only if every transport
was reported: a lifetime that ends meanwhile ends the list too. No error of one transport keeps another from starting.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pluggable.arrivals import ORPortFactory
from pluggable.environment import ClientEnvironment, ServerEnvironment
from pluggable.errors import MethodError
from pluggable.interfaces import IClientTransport, IServerTransport, Places
from pluggable.lifetime import Lifetime
from pluggable.local_users import LocalUsers
from pluggable.report import Report
from pluggable.socks_port import DIAL_LIMIT, SOCKSFactory, SOCKSLimits

_log = Logger()

Clients = Mapping[str, Callable[[ClientEnvironment], IClientTransport]]
"""A maker of the client side for each transport's name."""

Servers = Mapping[str, Callable[[ServerEnvironment], IServerTransport]]
"""A maker of the server side for each transport's name."""

_BIND_LIMIT, _BIND_PAUSE = 5.0, 0.25  # tor starts a successor about a second after it has ended its predecessor


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program that tor has started: the arguments of `run` as one value."""

    implementation: str
    version: str
    clients: Clients
    servers: Servers
    socks_users: Collection[int] = ()
    places: Places | None = None
    dial_limit: float = DIAL_LIMIT
    asks_kernel_for_users: bool = True
    """Whether SOCKS ports serve some users only; False where no kernel has the connections (`pluggable.testing`)."""


async def serve(
    reactor: Any,
    program: Program,
    environment: ClientEnvironment | ServerEnvironment,
    report: Report,
    lifetime: Lifetime,
) -> None:
    """Start those of *program*'s transports that tor asks for in *environment*, and run until *lifetime* ends."""
    side: Mapping[str, Any] = program.clients if isinstance(environment, ClientEnvironment) else program.servers
    names = [name for name in environment.transports if name in side]
    report.version()
    if names:
        report.status(names[0], program.implementation, program.version)
    starting = _Starting(reactor, program, report, lifetime)
    if isinstance(environment, ClientEnvironment):
        await lifetime.run(starting.clients(names, environment))
    else:
        await lifetime.run(starting.servers(names, environment))


class _Starting:
    """The start of the transports of one side."""

    def __init__(self, reactor: Any, program: Program, report: Report, lifetime: Lifetime) -> None:
        self._reactor, self._program, self._report, self._lifetime = reactor, program, report, lifetime

    async def clients(self, names: Collection[str], environment: ClientEnvironment) -> None:
        report, lifetime = self._report, self._lifetime
        if environment.proxy is not None:
            report.proxy_done()
        for name in names:
            if lifetime.is_ending:
                return
            with _method_errors(name, report.cmethod_error):
                transport = self._program.clients[name](environment)
                lifetime.add_stop(transport.stop)
                await transport.start()
                factory = SOCKSFactory(self._reactor, name, transport, lifetime.links, self._limits(name))
                port = await listen(self._reactor, TCP4ServerEndpoint(self._reactor, 0, interface="127.0.0.1"), factory)
                lifetime.add_port(port)
                host: Any = port.getHost()
                report.cmethod(name, host.host, host.port)
        report.cmethods_done()

    def _limits(self, name: str) -> SOCKSLimits:
        program = self._program
        if not program.asks_kernel_for_users:
            return SOCKSLimits(None, program.places, program.dial_limit)
        users = LocalUsers(self._reactor, program.socks_users, partial(_warn_refused, name))
        self._lifetime.add_stop(users.close)
        return SOCKSLimits(users, program.places, program.dial_limit)

    async def servers(self, names: Collection[str], environment: ServerEnvironment) -> None:
        report, lifetime = self._report, self._lifetime
        extended = environment.extended_or_port
        if extended is not None and not ip_address(extended[0]).is_loopback:
            _log.warn("the Extended ORPort is not on loopback: anyone who can reach it can pretend to own the cookie")
        for name in names:
            if lifetime.is_ending:
                return
            with _method_errors(name, report.smethod_error):
                transport = self._program.servers[name](environment)
                options = _as_mapping(environment.options.get(name, ()))
                factory = ORPortFactory(self._reactor, environment, name, lifetime.links)
                endpoint = transport.endpoint(environment.bind_addresses[name], options)
                port = await listen(self._reactor, endpoint, factory)
                lifetime.add_port(port)
                host: Any = port.getHost()
                report.smethod(name, host.host, host.port, transport.smethod_args())
        report.smethods_done()


def _warn_refused(name: str, reason: str) -> None:
    _log.warn("{transport}: {reason}", transport=name, reason=reason)


def _as_mapping(items: tuple[tuple[str, str], ...]) -> dict[str, str]:
    options = dict(items)
    if len(options) < len(items):
        raise MethodError("ServerTransportOptions: an option comes twice")
    return options


@contextlib.contextmanager
def _method_errors(name: str, report_error: Callable[[str, str], None]) -> Iterator[None]:
    """Report to tor why *name* cannot run, and let the others go on."""
    try:
        yield
    except CancelledError:
        raise
    except (MethodError, CannotListenError) as error:
        report_error(name, str(error))
    except Exception as error:  # noqa: BLE001  any transport may be here
        _log.failure("{transport}: starting", transport=name)
        report_error(name, f"internal error: {type(error).__name__}")


async def listen(reactor: Any, endpoint: IStreamServerEndpoint, factory: IProtocolFactory) -> IListeningPort:
    """Listen, and try again for a while if the address is in use: a predecessor may be about to leave it."""
    deadline = reactor.seconds() + _BIND_LIMIT
    while True:
        try:
            return await endpoint.listen(factory)
        except CannotListenError as error:
            in_use = getattr(error.socketError, "errno", None) == errno.EADDRINUSE
            if not in_use or reactor.seconds() >= deadline:
                raise
        await deferLater(reactor, _BIND_PAUSE)
