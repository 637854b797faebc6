"""Tests of torknock.client.transport: what tor is told, and what becomes of a connection that a knock has opened."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import ConnectError, NoRouteError
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pluggable.environment import ClientEnvironment
from pluggable.errors import (
    ConnectionRefused,
    HostUnreachable,
    MethodError,
    NetworkUnreachable,
    SOCKSError,
    TTLExpired,
)
from pluggable.interfaces import IClientTransport, Request
from pluggable.relay import Links, Single
from pluggable.socks import socks_error
from pluggable.socks_port import SOCKSFactory, SOCKSLimits
from pluggable.testing import client_environment
from tests.support.dialers import MemoryDialer
from torknock.channel.interfaces import ChannelFailed, IClientChannel
from torknock.channel.raw import Raw
from torknock.client import choose_dialer as module
from torknock.client import transport as transport_module
from torknock.client.connection import BridgeEndpoint, Destination
from torknock.client.knocker import TokensSpent
from torknock.client.round_errors import BridgeSilent, NotTheBridge, WrongPeer
from torknock.client.rounds import REQUEST_WITHIN, Knocked, Opener, T
from torknock.client.transport import PROXY_ERROR, KnockClient, SocksErrors
from torknock.interfaces import CannotKnock
from torknock.kernel.capability import NO_CAPABILITY
from torknock.protocol.bridge_line import Channel, Line
from torknock.protocol.token import epoch_at

reactor: Any = _reactor

LINE = Line(secret=bytes(range(32)), pin=bytes(32), channel=Channel.RAW)
KEY = urlsafe_b64encode(LINE.secret).decode().rstrip("=")
PIN = urlsafe_b64encode(bytes(32)).decode().rstrip("=")
ISN = 0xC0FFEE42

_WITHOUT_CAPABILITY = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"] if os.geteuid() == 0 else []


class Knocks:
    """A knocker whose knocks end as the test says."""

    def __init__(self, result: Deferred[Knocked]) -> None:
        self.result = result
        self.knocked: list[tuple[Line, str, int]] = []
        self.wrong: list[WrongPeer] = []

    def knock(self, line: Line, host: str, port: int, opened: Opener[T], deadline: float) -> Deferred[T]:
        self.knocked.append((line, host, port))
        return Deferred.fromCoroutine(self._knock(opened))

    async def _knock(self, opened: Opener[T]) -> T:
        try:
            return await opened(await self.result)
        except WrongPeer as error:
            self.wrong.append(error)
            raise NotTheBridge(error, again_in=0.0) from error


class TwoKnocks:
    """A knocker whose first knock is answered by another than the bridge."""

    def __init__(self, first: Knocked, second: Knocked) -> None:
        self._knocks = (first, second)

    async def knock(self, _line: Line, _host: str, _port: int, opened: Opener[T], _deadline: float) -> T:
        first, second = self._knocks
        with contextlib.suppress(WrongPeer):
            return await opened(first)
        return await opened(second)


class Ends(Protocol):
    """A protocol that tells of its connection's end."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


@implementer(IClientChannel)
class Waiting:
    """A channel that is open when the test says."""

    def __init__(self) -> None:
        self.lower = Ends()
        self.asked: tuple[Line, int, str] | None = None
        self.cancelled = False
        self.opened: Deferred[None] = Deferred(self._cancel)

    def open(self, line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        self.asked = (line, isn, host)
        return self.lower, self.opened

    def _cancel(self, opened: Deferred[None]) -> None:
        self.cancelled = True


def connect(knocks: Knocks, channel: IClientChannel | None = None, host: str = "192.0.2.7") -> Deferred[IProtocol]:
    """What `connect` of the endpoint returns."""
    knocker: Any = knocks
    bridge = BridgeEndpoint(reactor, knocker, channel or Raw(), Destination(LINE, host, 443))
    return SocksErrors(bridge).connect(Factory.forProtocol(Ends))


class FailureTests(SynchronousTestCase):
    """A knock that fails, and the reply that tor gets (RFC 1928 §6)."""

    def told(self, cause: Exception) -> SOCKSError:
        knocks = Knocks(fail(cause))
        error = self.failureResultOf(connect(knocks)).value
        assert isinstance(error, Exception)
        self.assertEqual(knocks.knocked, [(LINE, "192.0.2.7", 443)])
        told = socks_error(error)
        self.assertIn(str(cause), str(told))
        self.assertNotIn("\n", str(told))
        return told

    def test_a_refusal_and_silence_have_socks_replies_of_their_own(self) -> None:
        """A RST is a refusal; silence is an answer that did not come in time."""
        self.assertIs(type(self.told(BridgeSilent("it refused", refused=True))), ConnectionRefused)
        self.assertIs(type(self.told(BridgeSilent("nothing came back", refused=False))), TTLExpired)

    def test_an_unreachable_host_has_its_socks_reply(self) -> None:
        """Whether this host knows none or a router says so."""
        for number, reply in ((errno.ENETUNREACH, NetworkUnreachable), (errno.EHOSTUNREACH, HostUnreachable)):
            self.assertIs(type(self.told(CannotKnock("no way", number))), reply)
        self.assertIs(type(self.told(ConnectError(errno.EHOSTUNREACH, "no way"))), HostUnreachable)
        self.assertIs(type(self.told(NoRouteError(errno.ENETUNREACH, "no way"))), NetworkUnreachable)

    def test_what_has_no_reply_of_its_own(self) -> None:
        """It is a general failure with our text."""
        for cause in (TokensSpent(), CannotKnock(NO_CAPABILITY, errno.EPERM), CannotKnock("no scope")):
            self.assertIs(type(self.told(cause)), SOCKSError)

    def test_a_connection_that_is_given_up_cancels_the_knock(self) -> None:
        """Who gives the connection up ends the knock."""
        given_up: list[Deferred[Knocked]] = []
        knock: Deferred[Knocked] = Deferred(given_up.append)
        connecting = connect(Knocks(knock))
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(given_up, [knock])


class ConnectionTests(TestCase):
    """A knock that opens."""

    def pair(self, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
        """A connection over loopback: our end, as a dialer gives it, and the bridge's."""
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        with socket.create_server((host, 0), family=family) as listener:
            ours = socket.create_connection(listener.getsockname()[:2])
            theirs, _ = listener.accept()
        ours.setblocking(False)
        for end in (ours, theirs):
            self.addCleanup(end.close)
        return ours, theirs

    async def test_the_channel_knows_the_isn_and_address_that_were_dialled(self) -> None:
        """The service's protocol has the connection, over both families; the dialer's socket is closed."""
        for family, host in ((socket.AF_INET, "192.0.2.7"), (socket.AF_INET6, "2001:db8::7")):
            ours, theirs = self.pair(family)
            upper = await connect(Knocks(succeed(Knocked(ours, ISN))), host=host)
            assert isinstance(upper, Ends)
            assert upper.transport is not None
            self.assertEqual(ours.fileno(), -1)
            upper.transport.write(b"hello")
            upper.transport.loseConnection()
            await upper.ended
            self.assertEqual(theirs.recv(16), b"hello")

    async def test_a_channel_that_opens_later(self) -> None:
        """The endpoint waits for it, and the channel knows the ISN and the address that were dialled."""
        ours, theirs = self.pair()
        channel = Waiting()
        verifyObject(IClientChannel, channel)
        connecting = connect(Knocks(succeed(Knocked(ours, ISN))), channel)
        self.assertNoResult(connecting)
        self.assertEqual(channel.asked, (LINE, ISN, "192.0.2.7"))
        channel.opened.callback(None)
        await connecting
        theirs.close()
        await channel.lower.ended

    async def test_no_bridge_answers(self) -> None:
        """The knocker is told, which goes on to its next token; in the end, tor is."""
        ours, theirs = self.pair()
        channel = Waiting()
        knocks = Knocks(succeed(Knocked(ours, ISN)))
        connecting = connect(knocks, channel)
        channel.opened.errback(ChannelFailed("another key"))
        with self.assertRaises(ConnectionRefused) as told:
            await connecting
        self.assertIn("another key", str(told.exception))
        self.assertEqual(len(knocks.wrong), 1)
        theirs.close()
        await channel.lower.ended

    async def test_cancelled_while_the_channel_opens(self) -> None:
        """The channel is told, which drops the connection; nobody is blamed."""
        ours, theirs = self.pair()
        channel = Waiting()
        knocks = Knocks(succeed(Knocked(ours, ISN)))
        connecting = connect(knocks, channel)
        connecting.cancel()
        with self.assertRaises(CancelledError):
            await connecting
        self.assertTrue(channel.cancelled)
        self.assertEqual(knocks.wrong, [])
        theirs.close()
        await channel.lower.ended

    async def test_a_reset_right_behind_the_syn_ack(self) -> None:
        """As a refusal, but by somebody who is not the bridge; no channel is opened and no socket left."""
        ours, theirs = self.pair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        select.select([ours], [], [], 5)
        knocks, channel = Knocks(succeed(Knocked(ours, ISN))), Waiting()
        with self.assertRaises(ConnectionRefused):
            await connect(knocks, channel)
        self.assertIsNone(channel.asked)
        self.assertEqual(len(knocks.wrong), 1)
        self.assertEqual(ours.fileno(), -1)


    async def test_a_knock_after_one_that_was_reset(self) -> None:
        """It has the protocol that the first would have had: a SOCKS link has one, and gives it once."""
        reset, closing = self.pair()
        closing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        closing.close()
        select.select([reset], [], [], 5)
        ours, theirs = self.pair()
        knocker: Any = TwoKnocks(Knocked(reset, ISN), Knocked(ours, ISN))
        upper = Ends()
        bridge = BridgeEndpoint(reactor, knocker, Raw(), Destination(LINE, "192.0.2.7", 443))
        self.assertIs(await bridge.connect(Single(upper)), upper)
        theirs.close()
        await upper.ended


NOW = 1_700_000_100.0


def a_client(
    state: str, helper: str = "/nowhere", reactor: object = None, now: Callable[[], float] = time.time
) -> KnockClient:
    """The transport, with its state in the directory *state*, which is made."""
    Path(state).mkdir()
    environment = ClientEnvironment(Path(state), exit_on_stdin_close=True, transports=("torknock",))
    return KnockClient(cast(Any, reactor or Clock()), environment, now, helper)


class ForgettingTests(SynchronousTestCase):
    """What was used is kept for two hours, knocks or not."""

    def test_a_timer_forgets(self) -> None:
        """At the start what an earlier process left, and later what this one did."""
        self.patch(module, "may_administer_network", lambda: True)
        state, clock = self.mktemp(), Clock()
        transport = a_client(state, reactor=clock, now=lambda: NOW + clock.seconds())
        with contextlib.closing(sqlite3.connect(Path(state) / "knocks.sqlite", isolation_level=None)) as database:
            database.execute("INSERT INTO used VALUES (?, x'', 1)", (epoch_at(NOW) - 100,))
            database.execute("INSERT INTO used VALUES (?, x'', 2)", (epoch_at(NOW),))
            self.successResultOf(transport.start())
            self.assertEqual(database.execute("SELECT isn FROM used").fetchall(), [(2,)])
            clock.pump([60.0] * 90)
            self.assertEqual(database.execute("SELECT isn FROM used").fetchall(), [(2,)])
            clock.pump([60.0] * 30)
            self.assertEqual(database.execute("SELECT isn FROM used").fetchall(), [])
        transport.stop()
        self.assertEqual(clock.getDelayedCalls(), [])


class StartTests(TestCase):
    """Whether a knock is possible is found out before tor is told of the transport."""

    async def started(self, capability: bool, helper: str = "/nowhere") -> None:
        self.patch(module, "may_administer_network", lambda: capability)
        transport = a_client(self.mktemp(), helper, reactor)
        self.addCleanup(transport.stop)
        await transport.start()

    async def test_a_process_with_the_capability_dials_itself(self) -> None:
        """Nobody else is needed."""
        await self.started(capability=True)

    async def test_a_process_without_the_capability_asks_the_service(self) -> None:
        """One that can be connected to will do."""
        path = self.mktemp()
        port = await UNIXServerEndpoint(reactor, path).listen(Factory.forProtocol(Protocol))
        self.addCleanup(port.stopListening)
        await self.started(capability=False, helper=path)

    async def test_a_process_with_neither_says_what_is_missing(self) -> None:
        """The error says what is missing, and what to do."""
        try:
            await self.started(capability=False)
        except MethodError as error:
            self.assertRegex(str(error), "CAP_NET_ADMIN.*/nowhere: No such file.*systemctl enable")
        else:
            self.fail("it started")


class KnockClientTests(SynchronousTestCase):
    """The transport as tor's manager sees it."""

    def setUp(self) -> None:
        self.transport = a_client(self.mktemp())
        self.addCleanup(self.transport.stop)

    def refused(self, *arguments: tuple[str, str]) -> str:
        error = self.assertRaises(SOCKSError, self.transport.endpoint, Request("192.0.2.7", 443, arguments))
        self.assertIs(type(error), SOCKSError)
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_it_provides_the_interface_of_a_client_transport(self) -> None:
        """It is what `pluggable` asks for."""
        self.assertTrue(verifyObject(IClientTransport, self.transport))

    def test_a_right_line_has_an_endpoint_for_either_channel(self) -> None:
        """A line as it should be, for either channel."""
        for channel in ("tls", "raw"):
            arguments = (("key", KEY), ("pin", PIN), ("channel", channel))
            self.assertIsInstance(self.transport.endpoint(Request("192.0.2.7", 443, arguments)), SocksErrors)

    def test_bad_arguments_are_named(self) -> None:
        """The name of what is wrong is told, the key never."""
        for name, arguments in (
            ("key", (("pin", PIN),)),
            ("key", (("key", KEY[:-1]), ("pin", PIN))),
            ("key", (("key", KEY), ("key", KEY), ("pin", PIN))),
            ("pin", (("key", KEY),)),
            ("pin", (("key", KEY), ("pin", KEY[1:]))),
            ("n", (("key", KEY), ("pin", PIN), ("n", "0"))),
            ("channel", (("key", KEY), ("pin", PIN), ("channel", "udp"))),
            ("scheme", (("key", KEY), ("pin", PIN), ("scheme", "knock"))),
            ("cert", (("key", KEY), ("pin", PIN), ("cert", "x"))),
        ):
            told = self.refused(*arguments)
            self.assertIn(name, told)
            self.assertNotIn(KEY[1:-1], told)

    @given(st.lists(st.tuples(st.sampled_from(["key", "pin", "n", KEY, "k\ney"]), st.text(max_size=50)), max_size=4))
    def test_any_arguments_are_refused_in_one_line_without_a_secret(self, arguments: list[tuple[str, str]]) -> None:
        """They are refused in one line without a secret, whatever they are."""
        self.assertNotIn(KEY, self.refused(*arguments))

    def test_start_on_another_kernel(self) -> None:
        """One that looks like Linux and does not know the option."""

        def unknown() -> bool:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

        self.patch(module, "may_administer_network", unknown)
        told = str(self.assertRaises(MethodError, a_client, self.mktemp()))
        self.assertIn("Protocol not available", told)
        self.assertNotIn("\n", told)


def time_from(clock: Clock) -> Callable[[], float]:
    """The date when *clock* shows what it does."""
    return lambda: NOW + clock.seconds()


class SumTests(SynchronousTestCase):
    """SOCKS, knock and channel together, at a bridge that is silent."""

    def test_tor_is_told_why_and_not_that_time_is_up(self) -> None:
        """In the rounds with several SYNs, whichever pauses are drawn, and in the one that waits as the kernel does."""
        for _ in range(10):
            clock = Clock()
            self.patch(transport_module, "choose_dialer", lambda reactor, *_: MemoryDialer(reactor))
            client = a_client(self.mktemp(), reactor=clock, now=time_from(clock))
            self.addCleanup(client.stop)
            factory = SOCKSFactory(clock, "torknock", client, Links(), SOCKSLimits(dial_limit=REQUEST_WITHIN))
            for dials in (3, 3, 1):
                tor = factory.buildProtocol(None)
                tor.makeConnection(StringTransport())
                arguments = f"key={KEY};pin={PIN}".encode()
                request = b"\x05\x01\x00\x01" + socket.inet_aton("192.0.2.7") + b"\x01\xbb"
                with capturedLogs() as logs:
                    tor.dataReceived(b"\x05\x01\x02\x01" + bytes([len(arguments)]) + arguments + b"\x01\x00")
                    tor.dataReceived(request)
                    clock.pump([0.5] * 280)
                [said] = [log["reason"] for log in logs if log["log_format"] == "{transport}: {reason}"]
                self.assertIn(f"none of {dials} connection attempts", said)


class ProcessTests(SynchronousTestCase):
    """`torknock client` as tor starts it."""

    def said(self, *before: str, **environ: str) -> list[str]:
        """What it tells tor until stdin is closed."""
        command = [*before, str(Path(sys.executable).with_name("torknock")), "client", "--helper=/nowhere"]
        told = client_environment(["torknock"], Path(self.mktemp()).absolute())
        child = subprocess.Popen(
            command, env={**os.environ, **told, **environ}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith(("CMETHODS DONE", "PROXY-ERROR")):
                break
        rest, errors = child.communicate(timeout=30)
        self.assertEqual(errors, "")
        return [*lines, *rest.splitlines()]

    def test_a_client_without_the_capability_says_what_is_missing(self) -> None:
        """Tor is told what is missing, with no service either; no traceback."""
        said = self.said(*_WITHOUT_CAPABILITY)
        [told] = [line for line in said if line.startswith("CMETHOD-ERROR")]
        self.assertRegex(told, "^CMETHOD-ERROR torknock this process lacks CAP_NET_ADMIN, .* /nowhere: No such file")

    def test_a_proxy_is_refused_with_the_reason(self) -> None:
        """Refused, with the reason: the SYN would be the proxy's."""
        self.assertIn(f"PROXY-ERROR {PROXY_ERROR}", self.said(TOR_PT_PROXY="socks5://127.0.0.1:9"))

    def test_state_that_cannot_be_written(self) -> None:
        """The client works all the same, and one line says what is lost."""
        state = Path(self.mktemp()).absolute()
        (state / "knocks.sqlite").mkdir(parents=True)
        said = self.said(TOR_PT_STATE_LOCATION=str(state))
        [complaint] = [line for line in said if line.startswith("LOG SEVERITY=error")]
        self.assertIn("knocks.sqlite cannot be used", complaint)
        works = "CMETHOD torknock socks5 127.0.0.1:"
        if os.geteuid() != 0:
            works = "CMETHOD-ERROR torknock this process lacks"
        self.assertTrue(any(line.startswith(works) for line in said), said)
