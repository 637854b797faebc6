"""A program as tor's child: `main` and `run`, from the environment to the exit code (pt-spec §3).

The law: the environment is read as a whole before a line is said. A fault in it is the one line that tor gets, but that
`PROXY-ERROR` comes after `VERSION`. From then on, signals and the end of stdin act at any time, until the lifetime is
over; what is logged after that goes to no tor. tor's stdout is given back last.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.process import reapAllProcesses
from twisted.python.failure import Failure

from pluggable.environment import ClientEnvironment, ServerEnvironment, read_environment
from pluggable.errors import EnvironmentFault, NotManaged, ProxyError, StartError
from pluggable.interfaces import Places
from pluggable.lifetime import Lifetime
from pluggable.logs import logging_to
from pluggable.methods import Clients, Program, Servers, serve
from pluggable.report import Report
from pluggable.signals import handled
from pluggable.socks_port import DIAL_LIMIT
from pluggable.standard_streams import ended_by_tor, stdout_for_tor

NO_PROXY = "this transport cannot go through a proxy"
"""What tor is told when it asks for one, unless the author says otherwise."""

_EX_SOFTWARE = 70
"""The exit code if the reactor ends before `run` does (sysexits.h)."""


def main(
    reactor: Any, environ: Mapping[str, str], *, implementation: str, version: str,
    clients: Clients | None = None, servers: Servers | None = None, proxy_error: str | None = NO_PROXY,
    socks_users: Collection[int] = (), places: Places | None = None, dial_limit: float = DIAL_LIMIT,
) -> NoReturn:  # fmt: skip
    """`run` in a *reactor* that is started for it; exits with its code."""
    reactor.seconds = time.monotonic  # Twisted's own clock stands still when wall time is turned back
    code = _EX_SOFTWARE

    def ended(result: int | Failure) -> None:
        nonlocal code
        if isinstance(result, Failure):
            result.printTraceback(file=sys.stderr)
        else:
            code = result
        reactor.stop()

    def begin() -> None:
        running = run(
            reactor, environ, implementation=implementation, version=version, clients=clients, servers=servers,
            proxy_error=proxy_error, socks_users=socks_users, places=places, dial_limit=dial_limit,
        )  # fmt: skip
        Deferred.fromCoroutine(running).addBoth(ended)

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    sys.exit(code)


async def run(
    reactor: Any, environ: Mapping[str, str], *, implementation: str, version: str,
    clients: Clients | None = None, servers: Servers | None = None, proxy_error: str | None = NO_PROXY,
    socks_users: Collection[int] = (), places: Places | None = None, dial_limit: float = DIAL_LIMIT,
    stdin: int = 0, stdout: int = 1,
) -> int:  # fmt: skip
    """Run the transports that tor asks for in *environ* until tor or a signal ends them, and return the exit code.

    *implementation* and *version* are published by tor; *version* has no spaces. *proxy_error* is what tor is told
    when it asks for a proxy; None is for transports that use the proxy themselves (`ClientEnvironment.proxy`).
    A client serves its own user, root, and the users whose uids are *socks_users*: tor's, if tor runs as another one.
    It serves as many requests at once as there are *places*; without, as there are descriptors. A bridge that is not
    reached within *dial_limit* seconds is given up.

    Start the reactor without signal handlers of its own: `run` handles SIGTERM, SIGINT and SIGCHLD. While this runs,
    *stdout* is tor's alone: what other code writes there goes to stderr.
    """
    program = Program(
        implementation=implementation, version=version, clients=clients or {}, servers=servers or {},
        socks_users=socks_users, places=places, dial_limit=dial_limit,
    )  # fmt: skip
    with stdout_for_tor(stdout) as write:
        report = Report(write)
        try:
            environment = read_for(report, environ, proxy_error)
        except StartError as error:
            if isinstance(error, NotManaged):
                sys.stderr.write(f"{error}\n")
            return error.exit_code
        lifetime = Lifetime(reactor)
        with (
            logging_to(report, reactor.seconds),
            handled(reactor, _handlers(lifetime)),
            ended_by_tor(reactor, lifetime.terminate, environment.exit_on_stdin_close, stdin),
        ):
            await serve(reactor, program, environment, report, lifetime)
    return 0


def read_for(
    report: Report, environ: Mapping[str, str], proxy_error: str | None
) -> ClientEnvironment | ServerEnvironment:
    """The environment in *environ*, with its state location made; reports why not, and raises `StartError`.

    `NotManaged` is raised without a report: there is no tor then.
    """
    try:
        environment = read_environment(environ)
        _make_state(environment.state_location)
        if isinstance(environment, ClientEnvironment) and environment.proxy and proxy_error is not None:
            raise ProxyError(proxy_error)
    except NotManaged:
        raise
    except StartError as error:
        if isinstance(error, ProxyError):
            report.version()  # tor reads PROXY-ERROR only after it
        report.failed(error)
        raise
    return environment


def _make_state(location: Path) -> None:
    """Make the directory that tor names; tor does not make it."""
    try:
        location.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"TOR_PT_STATE_LOCATION: {location} cannot be made: {error}") from error


def _handlers(lifetime: Lifetime) -> Mapping[int, Callable[[], object]]:
    """SIGTERM ends, SIGINT drains first; SIGCHLD lets `reactor.spawnProcess` work without Twisted's own handlers."""
    return {signal.SIGTERM: lifetime.terminate, signal.SIGINT: lifetime.drain, signal.SIGCHLD: reapAllProcesses}
