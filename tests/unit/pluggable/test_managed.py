"""`pluggable.managed`, in this process: pipes are tor's."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from pluggable.errors import MethodError
from pluggable.interfaces import IClientTransport, IServerTransport, Request
from pluggable.managed import run
from pluggable.testing import LinkToBridge, TorSOCKS, client_environment, server_environment

reactor: Any = _reactor
_log = Logger()


@implementer(IClientTransport)
class Client:
    """A client that can be made to fail."""

    def __init__(self, starts: Deferred[None] | None = None) -> None:
        self._starts = starts or succeed(None)
        self.stopped = 0

    def start(self) -> Deferred[None]:
        return self._starts

    def endpoint(self, request: Request) -> IStreamClientEndpoint:
        return TCP4ClientEndpoint(reactor, request.address, request.port)

    def stop(self) -> None:
        self.stopped += 1


@implementer(IListeningPort)
class Port:
    """A port that is nowhere."""

    def __init__(self) -> None:
        self.stopped = 0

    def startListening(self) -> None:
        """It does."""

    def stopListening(self) -> Deferred[None]:
        self.stopped += 1
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 443)


@implementer(IServerTransport, IStreamServerEndpoint)
class Server:
    """A server that can be made to fail."""

    def __init__(self, listens: list[Any], arguments: Mapping[str, str] | None = None) -> None:
        self.listens = listens
        self.arguments = arguments or {}

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        self.given = bind_address, options
        return self

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        self.factory = protocolFactory
        result = self.listens.pop(0)
        return fail(result) if isinstance(result, Exception) else succeed(result)

    def smethod_args(self) -> Mapping[str, str]:
        return self.arguments


IN_USE = CannotListenError("127.0.0.1", 443, OSError(errno.EADDRINUSE, "in use"))
FORBIDDEN = CannotListenError("127.0.0.1", 443, OSError(errno.EACCES, "forbidden"))


class RunTests(TestCase):
    """`run`."""

    def setUp(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.stdin, self.tors_stdin = os.pipe()
        self.tors_stdout, self.stdout = os.pipe()
        os.set_blocking(self.tors_stdout, False)
        for descriptor in (self.stdin, self.tors_stdout, self.stdout):
            self.addCleanup(os.close, descriptor)
        self.addCleanup(self.close_stdin)
        self.said = b""

    def close_stdin(self) -> None:
        if self.tors_stdin >= 0:
            os.close(self.tors_stdin)
            self.tors_stdin = -1

    def directory(self) -> Path:
        return Path(self.mktemp()).absolute()

    def begin(self, environ: Mapping[str, str], **kinds: Any) -> Deferred[int]:
        words: dict[str, Any] = {"implementation": "test", "version": "1.0"}
        running = run(reactor, environ, stdin=self.stdin, stdout=self.stdout, **words, **kinds)
        return Deferred.fromCoroutine(running)

    def client(self, **clients: Client) -> Deferred[int]:
        makers = {name: lambda _environment, client=client: client for name, client in clients.items()}
        return self.begin(client_environment(clients, self.directory()), clients=makers)

    def server(self, options: str | None = None, **servers: Server) -> Deferred[int]:
        makers = {name: lambda _environment, server=server: server for name, server in servers.items()}
        bind = dict.fromkeys(servers, "127.0.0.1:443")
        environ = server_environment(bind, self.directory(), or_port="127.0.0.1:1", options=options)
        return self.begin(environ, servers=makers)

    async def hears(self, line: bytes) -> list[bytes]:
        """Wait for *line*; all lines so far that are no LOG."""
        while line + b"\n" not in self.said:
            try:
                self.said += os.read(self.tors_stdout, 65536)
            except BlockingIOError:
                await deferLater(reactor, 0.01)
        return [said for said in self.said.splitlines() if not said.startswith(b"LOG ")]

    async def test_the_end_of_stdin_is_the_end(self) -> None:
        """Everything is stopped once, and the code is 0."""
        client, port = Client(), Port()
        running = self.client(a=client)
        await self.hears(b"CMETHODS DONE")
        self.close_stdin()
        self.assertEqual((await running, client.stopped), (0, 1))
        running = self.server(a=Server([port]))
        self.assertEqual((await running, port.stopped), (0, 1))

    async def test_a_proxy_that_is_used_is_confirmed_first(self) -> None:
        """tor ends a client that does not confirm it."""
        environments: list[Any] = []

        def make(environment: Any) -> Client:
            environments.append(environment)
            return Client()

        environ = client_environment(["a"], self.directory(), "http://u:p@127.0.0.1:9")
        running = self.begin(environ, clients={"a": make}, proxy_error=None)
        said = await self.hears(b"CMETHODS DONE")
        self.assertEqual(said[2], b"PROXY DONE")
        self.assertTrue(said[3].startswith(b"CMETHOD a "))
        self.assertEqual(environments[0].proxy.password, "p")
        self.close_stdin()
        await running

    async def test_one_that_fails_leaves_the_others(self) -> None:
        """Each failure is said, and the list ends all the same."""
        running = self.client(a=Client(fail(MethodError("no root"))), b=Client(), c=Client(fail(ZeroDivisionError())))
        said = await self.hears(b"CMETHODS DONE")
        self.assertEqual(said[0], b"VERSION 1")
        self.assertEqual(said[2], b"CMETHOD-ERROR a no root")
        self.assertTrue(said[3].startswith(b"CMETHOD b socks5 127.0.0.1:"))
        self.assertEqual(said[4], b"CMETHOD-ERROR c internal error: ZeroDivisionError")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.close_stdin()
        await running

    async def test_a_server_that_cannot_run_stays_idle(self) -> None:
        """Were it to exit, tor would start it every second."""
        running = self.server(a=Server([MethodError("no root")]), b=Server([FORBIDDEN]))
        said = await self.hears(b"SMETHODS DONE")
        self.assertEqual(said[2], b"SMETHOD-ERROR a no root")
        self.assertTrue(said[3].startswith(b"SMETHOD-ERROR b "))
        await deferLater(reactor, 0.1)
        self.assertNoResult(running)
        self.close_stdin()
        self.assertEqual(await running, 0)

    async def test_what_tor_may_not_publish_is_never_said(self) -> None:
        """Arguments that need an escape are our mistake; the port is closed again at the end."""
        port = Port()
        running = self.server(a=Server([port], {"k": "a b"}))
        said = await self.hears(b"SMETHODS DONE")
        self.assertEqual(said[2], b"SMETHOD-ERROR a internal error: ValueError")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.close_stdin()
        await running
        self.assertEqual(port.stopped, 1)

    async def test_options_reach_the_transport_that_they_are_for(self) -> None:
        """As a mapping; what comes twice is refused."""
        a, b = Server([Port()], {"k": "v"}), Server([Port()])
        running = self.server("a:x=1;a:y=2;b:x=1;b:x=2", a=a, b=b)
        said = await self.hears(b"SMETHODS DONE")
        self.assertEqual(a.given, (("127.0.0.1", 443), {"x": "1", "y": "2"}))
        self.assertEqual(said[2], b"SMETHOD a 192.0.2.1:443 ARGS:k=v")
        self.assertEqual(said[3], b"SMETHOD-ERROR b ServerTransportOptions: an option comes twice")
        self.close_stdin()
        await running

    async def test_sigint_keeps_the_links_and_takes_no_new_one(self) -> None:
        """Nobody new, and the end with the last link; SIGTERM and a second SIGINT do not wait."""
        for second in (None, signal.SIGINT, signal.SIGTERM):
            target = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Protocol))
            self.said = b""
            running = self.client(a=Client())
            said = await self.hears(b"CMETHODS DONE")
            tor = TCP4ClientEndpoint(reactor, "127.0.0.1", int(said[2].rpartition(b":")[2]))
            link = LinkToBridge(TorSOCKS("127.0.0.1", target.getHost().port))
            await connectProtocol(tor, link)
            await link.opened
            os.kill(os.getpid(), signal.SIGINT)
            while not await refused(tor):
                await deferLater(reactor, 0.01)
            self.assertNoResult(running)
            if second is None:
                link.close()
            else:
                os.kill(os.getpid(), second)
            self.assertEqual(await running, 0)
            link.abort()
            await target.stopListening()

    async def test_a_drain_without_links_is_the_end(self) -> None:
        """There is nothing to wait for."""
        running = self.client(a=Client())
        await self.hears(b"CMETHODS DONE")
        os.kill(os.getpid(), signal.SIGINT)
        self.assertEqual(await running, 0)

    async def test_a_start_that_hangs_can_be_ended(self) -> None:
        """tor may change its mind at any time."""
        cancelled: list[Deferred[None]] = []
        running = self.client(a=Client(Deferred(cancelled.append)))
        await self.hears(b"VERSION 1")
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual((await running, len(cancelled)), (0, 1))


async def refused(endpoint: TCP4ClientEndpoint) -> bool:
    """Whether nobody listens there."""
    try:
        link: Any = await endpoint.connect(Factory.forProtocol(Protocol))
    except Exception:  # noqa: BLE001  whatever the reason
        return True
    link.transport.abortConnection()
    return False
