"""A transport's life under tor: start, work, drain, stop (pt-spec §3.4)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReadDescriptor, IStreamServerEndpoint
from twisted.internet.process import reapAllProcesses
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pluggable.arrivals import ORPortFactory
from pluggable.environment import ClientEnvironment, ServerEnvironment, read_environment
from pluggable.errors import EnvironmentFault, MethodError, NotManaged, ProxyError, StartError
from pluggable.interfaces import IClientTransport, IServerTransport, Places
from pluggable.logs import logging_to
from pluggable.peers import LocalUsers
from pluggable.relay import Links
from pluggable.report import Report
from pluggable.signals import handled
from pluggable.socks import DIAL_LIMIT, SOCKSFactory

_log = Logger()

Clients = Mapping[str, Callable[[ClientEnvironment], IClientTransport]]
"""A maker of the client side for each transport's name."""

Servers = Mapping[str, Callable[[ServerEnvironment], IServerTransport]]
"""A maker of the server side for each transport's name."""

NO_PROXY = "this transport cannot go through a proxy"
"""What tor is told when it asks for one, unless the author says otherwise."""

STOP_LIMIT = 3.0
"""So long the transports may take to stop: arti kills after five seconds."""

_BIND_LIMIT, _BIND_PAUSE = 5.0, 0.25  # tor starts a successor about a second after it has ended its predecessor
_ORPHAN_PAUSE = 2.0


def main(
    reactor: Any,
    environ: Mapping[str, str],
    *,
    implementation: str,
    version: str,
    clients: Clients | None = None,
    servers: Servers | None = None,
    proxy_error: str | None = NO_PROXY,
    socks_users: Collection[int] = (),
    places: Places | None = None,
    dial_limit: float = DIAL_LIMIT,
) -> NoReturn:
    """`run` in a *reactor* that is started for it; exits with its code."""
    reactor.seconds = time.monotonic  # Twisted's own clock stands still when wall time is turned back
    code = 70  # EX_SOFTWARE, should the reactor end before `run` does

    def ended(result: int | Failure) -> None:
        nonlocal code
        if isinstance(result, Failure):
            result.printTraceback(file=sys.stderr)
        else:
            code = result
        reactor.stop()

    def begin() -> None:
        running = run(
            reactor,
            environ,
            implementation=implementation,
            version=version,
            clients=clients,
            servers=servers,
            proxy_error=proxy_error,
            socks_users=socks_users,
            places=places,
            dial_limit=dial_limit,
        )
        Deferred.fromCoroutine(running).addBoth(ended)

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    sys.exit(code)


async def run(
    reactor: Any,
    environ: Mapping[str, str],
    *,
    implementation: str,
    version: str,
    clients: Clients | None = None,
    servers: Servers | None = None,
    proxy_error: str | None = NO_PROXY,
    socks_users: Collection[int] = (),
    places: Places | None = None,
    dial_limit: float = DIAL_LIMIT,
    stdin: int = 0,
    stdout: int = 1,
) -> int:
    """Be what tor asks for in *environ* until tor, or a signal, ends it; the exit code comes back.

    *implementation* and *version* are published by tor; *version* has no spaces. *proxy_error* is what tor is told
    when it wants a proxy to be used; None is for transports that see to it themselves (`ClientEnvironment.proxy`).
    A client serves its own user, root, and the users whose uids are *socks_users*: tor's, if tor runs as another one.
    It serves as many requests at once as there are *places*; without, as there are descriptors. A bridge that is not
    reached within *dial_limit* seconds is given up.

    The reactor is to be started without signal handlers of its own: SIGTERM, SIGINT and SIGCHLD are taken care of
    here. While this runs, *stdout* is tor's alone: what others write there goes to stderr.
    """
    with _tor_hears(stdout) as write:
        report = Report(write)
        try:
            environment = read_environment(environ)
            _make_state(environment.state_location)
            if isinstance(environment, ClientEnvironment) and environment.proxy and proxy_error is not None:
                raise ProxyError(proxy_error)
        except NotManaged as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        except StartError as error:
            if isinstance(error, ProxyError):
                report.version()  # tor reads PROXY-ERROR only after it
            report.failed(error)
            return error.exit_code
        with logging_to(report, reactor.seconds):
            asked: Mapping[str, Any] = (clients if isinstance(environment, ClientEnvironment) else servers) or {}
            known = [name for name in environment.transports if name in asked]
            life = _Life(reactor)

            def serve(name: str, transport: IClientTransport) -> SOCKSFactory:
                users = LocalUsers(reactor, socks_users, partial(_say_refused, name))
                life.stops(users.close)
                return SOCKSFactory(reactor, name, transport, life.links, users, places, dial_limit)

            with handled(reactor, _handlers(life)), _stdin(reactor, life, environment.exit_on_stdin_close, stdin):
                report.version()
                if known:
                    report.status(known[0], implementation, version)
                makers = {name: asked[name] for name in known}
                if isinstance(environment, ClientEnvironment):
                    await life.lead(_start_clients(reactor, environment, report, life, makers, serve))
                else:
                    await life.lead(_start_servers(reactor, environment, report, life, makers))
    return 0


class _Life:
    """What runs, and how it ends: by `drain`, by `terminate`, or by one after the other."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.links = Links()
        self._ports: list[IListeningPort] = []
        self._stops: list[Callable[[], Deferred[None] | None]] = []
        self._over: Deferred[None] = Deferred()
        self._starting: Deferred[None] | None = None
        self._draining = False

    @property
    def ending(self) -> bool:
        """Whether nothing may start any more."""
        return self._draining or self._over.called

    def listens(self, port: IListeningPort) -> None:
        """*port* is to be closed on `drain`."""
        self._ports.append(port)

    def stops(self, stop: Callable[[], Deferred[None] | None]) -> None:
        """*stop* is to be called at the end."""
        self._stops.append(stop)

    async def lead(self, start: Any) -> None:
        """Run the coroutine *start*, wait for the end, and clean up.

        A *start* that fails leaves us idle: were we to exit, tor would start us again every second.
        """
        self._starting = Deferred.fromCoroutine(start)
        self._starting.addErrback(self._start_failed)
        await self._over
        self._starting.cancel()
        self.links.abort()
        closing = [self._close(), *(self._stop(stop) for stop in self._stops)]
        waiting = gatherResults([Deferred.fromCoroutine(each) for each in closing], consumeErrors=True)
        waiting.addTimeout(STOP_LIMIT, self._reactor)
        waiting.addErrback(lambda failure: _log.failure("a transport did not stop", failure))
        await waiting

    def drain(self) -> None:
        """Accept no more links; end with the last link. A second time: end now."""
        if self._draining:
            self.terminate()
            return
        self._draining = True
        if self._starting is not None:
            self._starting.cancel()
        closing = Deferred.fromCoroutine(self._close())
        closing.addCallback(lambda _: self.links.gone())
        closing.addBoth(lambda _: self.terminate())

    def terminate(self) -> None:
        """End now."""
        if not self._over.called:
            self._over.callback(None)

    @staticmethod
    def _start_failed(failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("the start failed", failure)

    async def _close(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            await self._stop(port.stopListening)

    @staticmethod
    async def _stop(stop: Callable[[], Any]) -> None:
        try:
            await maybeDeferred(stop)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  any transport may be here
            _log.failure("stopping")


async def _start_clients(
    reactor: Any,
    environment: ClientEnvironment,
    report: Report,
    life: _Life,
    makers: Mapping[str, Callable[[ClientEnvironment], IClientTransport]],
    serve: Callable[[str, IClientTransport], SOCKSFactory],
) -> None:
    if environment.proxy is not None:
        report.proxy_done()
    for name, make in makers.items():
        if life.ending:
            return
        with _method_errors(name, report.cmethod_error):
            transport = make(environment)
            life.stops(transport.stop)
            await transport.start()
            endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            port = await _listen(reactor, endpoint, serve(name, transport))
            life.listens(port)
            host: Any = port.getHost()
            report.cmethod(name, host.host, host.port)
    report.cmethods_done()


def _say_refused(name: str, reason: str) -> None:
    _log.warn("{transport}: {reason}", transport=name, reason=reason)


async def _start_servers(
    reactor: Any,
    environment: ServerEnvironment,
    report: Report,
    life: _Life,
    makers: Mapping[str, Callable[[ServerEnvironment], IServerTransport]],
) -> None:
    extended = environment.extended_or_port
    if extended is not None and not ip_address(extended[0]).is_loopback:
        _log.warn("the Extended ORPort is not on loopback: anyone who can reach it can pretend to own the cookie")
    for name, make in makers.items():
        if life.ending:
            return
        with _method_errors(name, report.smethod_error):
            transport = make(environment)
            options = _as_mapping(environment.options.get(name, ()))
            factory = ORPortFactory(reactor, environment, name, life.links)
            port = await _listen(reactor, transport.endpoint(environment.bind_addresses[name], options), factory)
            life.listens(port)
            host: Any = port.getHost()
            report.smethod(name, host.host, host.port, transport.smethod_args())
    report.smethods_done()


def _as_mapping(items: tuple[tuple[str, str], ...]) -> dict[str, str]:
    options = dict(items)
    if len(options) < len(items):
        raise MethodError("ServerTransportOptions: an option comes twice")
    return options


@contextlib.contextmanager
def _method_errors(name: str, tell: Callable[[str, str], None]) -> Iterator[None]:
    """Tell tor why *name* cannot run, and let the others go on."""
    try:
        yield
    except CancelledError:
        raise
    except (MethodError, CannotListenError) as error:
        tell(name, str(error))
    except Exception as error:  # noqa: BLE001  any transport may be here
        _log.failure("{transport}: starting", transport=name)
        tell(name, f"internal error: {type(error).__name__}")


async def _listen(reactor: Any, endpoint: IStreamServerEndpoint, factory: IProtocolFactory) -> IListeningPort:
    """Listen, and try again for a while if the address is in use: a predecessor may be about to leave it."""
    gives_up = reactor.seconds() + _BIND_LIMIT
    while True:
        try:
            return await endpoint.listen(factory)
        except CannotListenError as error:
            in_use = getattr(error.socketError, "errno", None) == errno.EADDRINUSE
            if not in_use or reactor.seconds() >= gives_up:
                raise
        await deferLater(reactor, _BIND_PAUSE)


def _make_state(location: Path) -> None:
    """tor names this directory and leaves its making to us."""
    try:
        location.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"TOR_PT_STATE_LOCATION: {location} cannot be made: {error}") from error


@contextlib.contextmanager
def _tor_hears(stdout: int) -> Iterator[Callable[[bytes], None]]:
    """A way to write to tor that no other code has; *stdout* itself leads to stderr meanwhile."""
    private = os.dup(stdout)
    try:
        os.dup2(2, stdout, inheritable=True)
    except OSError:  # there is no stderr
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stdout, inheritable=True)
        os.close(nothing)

    def write(line: bytes) -> None:
        with contextlib.suppress(OSError):  # tor is gone; its end of stdin will tell
            while line:
                line = line[os.write(private, line) :]

    try:
        yield write
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()  # what others have printed must not reach tor late either
        os.dup2(private, stdout, inheritable=True)
        os.close(private)


def _handlers(life: _Life) -> Mapping[int, Callable[[], object]]:
    """SIGTERM ends, SIGINT drains first; SIGCHLD lets `reactor.spawnProcess` work without Twisted's own handlers."""
    return {signal.SIGTERM: life.terminate, signal.SIGINT: life.drain, signal.SIGCHLD: reapAllProcesses}


@contextlib.contextmanager
def _stdin(reactor: Any, life: _Life, exits_on_close: bool, stdin: int) -> Iterator[None]:
    """End with *stdin* if tor wants that; else with our parent, since tor may die without a word."""
    if exits_on_close:
        reader = _Stdin(stdin, life.terminate)
        reader.watch(reactor)
        try:
            yield
        finally:
            reactor.removeReader(reader)
        return
    parent = os.getppid()
    orphaned = LoopingCall(lambda: None if os.getppid() == parent else life.terminate())
    orphaned.clock = reactor
    orphaned.start(_ORPHAN_PAUSE)
    try:
        yield
    finally:
        orphaned.stop()


@implementer(IReadDescriptor)
class _Stdin:
    """Reads what is not needed, up to its end."""

    def __init__(self, descriptor: int, ended: Callable[[], None]) -> None:
        self._descriptor, self._ended = descriptor, ended

    def watch(self, reactor: Any) -> None:
        """Begin; a descriptor that cannot be watched has ended."""
        try:
            os.fstat(self._descriptor)
            reactor.addReader(self)
        except OSError:
            self._ended()

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "stdin"

    def doRead(self) -> Failure | None:
        try:
            if os.read(self._descriptor, 4096):
                return None
        except BlockingIOError:
            return None
        except OSError:
            pass
        return Failure(EOFError())

    def connectionLost(self, reason: Failure) -> None:
        self._ended()
