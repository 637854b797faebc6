"""`MemoryTor`: a tor for tests of a transport, without a process.

It starts transports as `run` does, with the environment that tor sets; it reads the lines that they write, connects to
their SOCKS ports, and takes their clients at an Extended ORPort. What needs a process is not here: the descriptors of
stdin and stdout, and signals.

The law: `start_client` or `start_server` comes once. When it fires, `output` has the lines of the start. `clients` are
in the order in which they came. After `close_stdin`, or `interrupt` and the end of the last link, `exit_code` fires,
once.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from pluggable.errors import StartError
from pluggable.interfaces import Places
from pluggable.lifetime import Lifetime
from pluggable.logs import logging_to
from pluggable.managed import NO_PROXY, read_for
from pluggable.methods import Clients, Program, Servers, serve
from pluggable.report import Report
from pluggable.socks_port import DIAL_LIMIT
from pluggable.testing.memory_network import MemoryNetwork
from pluggable.testing.tor_environment import client_environment, cookie_file, server_environment
from pluggable.testing.tor_extorport import COOKIE_HEADER, TorExtendedORPort
from pluggable.testing.tor_link import LinkToBridge, LinkToClient
from pluggable.testing.tor_output import TorOutput
from pluggable.testing.tor_socks import TorSOCKS

_LOOPBACK = "127.0.0.1"


class MemoryTor:
    """A tor that starts transports in *reactor*, and has its files in *data_directory*, an absolute path.

    In a `MemoryNetwork` its ports are in memory; everything happens when the network is advanced. In Twisted's reactor
    they are on loopback.
    """

    def __init__(self, reactor: Any, data_directory: Path) -> None:
        self._reactor, self._data_directory = reactor, data_directory
        self.output = TorOutput()
        """What the transports have written to stdout."""
        self.clients: list[LinkToClient] = []
        """The connections to the Extended ORPort."""
        self.denies = False
        """Whether the Extended ORPort answers new clients with DENY."""
        self.exit_code: Deferred[int] = Deferred()
        self._cookie = secrets.token_bytes(32)
        self._lifetime = Lifetime(reactor)
        self._started: Deferred[None] = Deferred()
        self._or_port: IListeningPort | None = None

    def start_client(
        self, clients: Clients, *, proxy: str | None = None, proxy_error: str | None = NO_PROXY,
        places: Places | None = None, dial_limit: float = DIAL_LIMIT,
    ) -> Deferred[None]:  # fmt: skip
        """Start *clients* as `ClientTransportPlugin` does; fires at `CMETHODS DONE`, or at an exit before it.

        *proxy* is the URL of tor's proxy, such as `socks5://127.0.0.1:9`. For the others see `pluggable.run`.
        """
        program = Program(
            implementation="test", version="1", clients=clients, servers={}, places=places, dial_limit=dial_limit,
            asks_kernel_for_users=not isinstance(self._reactor, MemoryNetwork),
        )  # fmt: skip
        self._start(client_environment(clients, self._data_directory, proxy), program, proxy_error)
        return self._started

    def start_server(
        self, servers: Servers, bind_addresses: Mapping[str, str], options: str | None = None
    ) -> Deferred[None]:
        """Start *servers* as `ServerTransportPlugin` does; fires at `SMETHODS DONE`, or at an exit before it.

        *bind_addresses* has `ip:port` for each name, port 0 for any. *options* are those of `ServerTransportOptions`:
        `name:key=value;name:key=value`.
        """
        Deferred.fromCoroutine(self._start_server(servers, bind_addresses, options)).addErrback(self._failed)
        return self._started

    def connect(
        self, name: str, address: str, port: int, arguments: Iterable[tuple[str, str]] = ()
    ) -> Deferred[LinkToBridge]:
        """Have the transport *name* connect to a bridge; *arguments* are those of its line.

        Fires with tor's link once the transport answers with success. Fails with `SOCKSRefused`, or with an error
        of Twisted's if the SOCKS port takes no connection. `KeyError` if the transport has not started.
        """
        method = self.output.methods[name]
        link = LinkToBridge(TorSOCKS(address, port, arguments))
        connecting = connectProtocol(TCP4ClientEndpoint(self._reactor, method.address, method.port), link)
        opening: Deferred[LinkToBridge] = connecting.addCallback(lambda _: link.opened)
        return opening

    def close_stdin(self) -> Deferred[int]:
        """End the transports as tor does; returns `exit_code`."""
        self._lifetime.terminate()
        return self.exit_code

    def interrupt(self) -> None:
        """Send SIGINT: the transports take no more clients, and end with the last link. A second one ends them."""
        self._lifetime.drain()

    async def _start_server(self, servers: Servers, bind_addresses: Mapping[str, str], options: str | None) -> None:
        self._data_directory.mkdir(parents=True, exist_ok=True)
        cookie_file(self._data_directory).write_bytes(COOKIE_HEADER + self._cookie)
        endpoint = TCP4ServerEndpoint(self._reactor, 0, interface=_LOOPBACK)
        self._or_port = await endpoint.listen(_ORPort(self._new_client))
        host: Any = self._or_port.getHost()
        environ = server_environment(
            bind_addresses, self._data_directory,
            or_port=f"{_LOOPBACK}:1", extended_or_port=f"{_LOOPBACK}:{host.port}", options=options,
        )  # fmt: skip
        self._start(environ, Program(implementation="test", version="1", clients={}, servers=servers), NO_PROXY)

    def _new_client(self) -> LinkToClient:
        client = LinkToClient(TorExtendedORPort(self._cookie, secrets.token_bytes(32), self.denies))
        self.clients.append(client)
        return client

    def _start(self, environ: Mapping[str, str], program: Program, proxy_error: str | None) -> None:
        Deferred.fromCoroutine(self._run(environ, program, proxy_error)).addBoth(self._ended)

    async def _run(self, environ: Mapping[str, str], program: Program, proxy_error: str | None) -> int:
        report = Report(self._read)
        try:
            environment = read_for(report, environ, proxy_error)
        except StartError as error:
            return error.exit_code
        with logging_to(report, self._reactor.seconds):
            await serve(self._reactor, program, environment, report, self._lifetime)
        return 0

    def _read(self, line: bytes) -> None:
        self.output.feed(line)
        if self.output.done and not self._started.called:
            self._started.callback(None)

    def _failed(self, failure: Failure) -> None:
        if not self._started.called:
            self._started.errback(failure)

    async def _close(self) -> None:
        if self._or_port is not None:
            await maybeDeferred(self._or_port.stopListening)

    def _ended(self, result: Any) -> None:
        if not self._started.called:
            self._started.callback(None)
        closing = Deferred.fromCoroutine(self._close())
        closing.addCallback(lambda _: self.exit_code.callback(result))


class _ORPort(Factory[LinkToClient]):
    noisy = False

    def __init__(self, new_client: Any) -> None:
        self._new_client = new_client

    def buildProtocol(self, addr: object) -> LinkToClient:
        """A link for the next client."""
        client: LinkToClient = self._new_client()
        return client
