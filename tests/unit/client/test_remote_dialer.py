"""Tests of torknock.client.remote_dialer against services that say all kinds of things."""

from __future__ import annotations

import errno
import shutil
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.unit.service.test_requester import descriptors, short_directory
from torknock.client.remote_dialer import JOIN, RESTART, START, RemoteDialer, _error
from torknock.interfaces import CannotKnock, IPrivilegedDialer, Slipped
from torknock.service.conversation import PeerConnection
from torknock.service.factory import PeerFactory
from torknock.service.interfaces import IConversation, Reply
from torknock.service.listener import Accepting, listener
from torknock.service.requester import ServiceRefused

reactor: Any = _reactor

HOST, PORT, ISN = "192.0.2.1", 443, 7


@implementer(IConversation)
class Scripted:
    """Says what it was told to; `(never)` is silence."""

    def __init__(self, connection: PeerConnection, script: list[str], heard: list[str]) -> None:
        self.connection, self.script, self.heard = connection, script, heard
        self.ends = 0

    async def answer(self, line: str) -> Reply:
        self.heard.append(line)
        for said in self.script[:-1]:
            if said.startswith("tsval"):
                self.heard.append(await self.connection.ask(said, "isn"))
            else:
                self.connection.tell(said)
        match self.script[-1]:
            case "(never)":
                await Deferred()
            case "(socket)":
                return Reply("ok", (socket.socket(),), last=True)
            case "(sockets)":
                return Reply("ok", (socket.socket(), socket.socket()), last=True)
        return Reply(self.script[-1], last=True)

    def ended(self) -> None:
        self.ends += 1


class RemoteDialerTests(TestCase):
    """`RemoteDialer`."""

    timeout = 60

    def setUp(self) -> None:
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory)
        self.path = f"{directory}/dial.sock"
        self.script = ["(socket)"]
        self.heard: list[str] = []
        self.made: list[Scripted] = []
        self.service = PeerFactory(reactor, lambda _: True, self.converse)
        accepting = Accepting(reactor, listener(self.path, {}, 0), self.service)
        self.addCleanup(self.quiet)
        self.addCleanup(accepting.stop)
        self.dialer = RemoteDialer(reactor, self.path)

    def converse(self, connection: PeerConnection) -> Scripted:
        self.made.append(Scripted(connection, self.script, self.heard))
        return self.made[-1]

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.01)

    async def quiet(self) -> None:
        """Everybody is gone, and the reactor has seen it."""
        await self.until(lambda: not self.service.connections)
        await deferLater(reactor, 0.01)

    async def failed(self, *script: str) -> Exception:
        """The error that a dial ends with."""
        self.script = list(script)
        try:
            (await self.dialer.dial(HOST, PORT, ISN)).close()
        except Exception as error:  # noqa: BLE001  it is what is asked for
            return error
        self.fail("a socket came back")

    def test_it_provides_the_interface_of_a_dialer(self) -> None:
        """It is what knockers ask for."""
        self.assertTrue(verifyObject(IPrivilegedDialer, self.dialer))

    async def test_the_socket_does_not_block_and_is_this_process_own(self) -> None:
        """It does not block, and belongs to this process alone."""
        for self.script in (["(socket)"], ["dialling", "(socket)"]):
            with await self.dialer.dial(HOST, PORT, ISN) as connected:
                self.assertEqual((connected.getblocking(), connected.get_inheritable()), (False, False))
        self.assertEqual(self.heard, [f"dial {HOST} {PORT} {ISN}"] * 2)

    async def test_the_isn_is_chosen_for_the_tsval(self) -> None:
        """The ISN is what was chosen for the TSval."""
        self.script = ["tsval 5", "dialling", "(socket)"]
        dialled = await self.dialer.dial_stamped(HOST, PORT, lambda tsval: tsval + 1)
        dialled.socket.close()
        self.assertEqual((dialled.isn, dialled.tsval), (6, 5))
        self.assertEqual(self.heard, [f"stamped {HOST} {PORT}", "isn 6"])

    async def test_the_bind_address_is_of_the_targets_family(self) -> None:
        """The one of the target's family, in its canonical form, as the target is."""
        self.dialer = RemoteDialer(reactor, self.path, "192.0.2.9", "2001:DB8::9")
        for host in (HOST, "2001:db8:0::1"):
            (await self.dialer.dial(host, PORT, ISN)).close()
        self.assertEqual(self.heard, ["dial 192.0.2.1 443 7 192.0.2.9", "dial 2001:db8::1 443 7 2001:db8::9"])

    async def test_a_wrong_request_does_not_reach_the_service(self) -> None:
        """It does not come to the service."""
        for isn in (0, -1, 2**32):
            self.assertRaises(ValueError, self.dialer.dial, HOST, PORT, isn)
        for host in ("bridge.example", "", "1"):
            await self.assertFailure(self.dialer.dial(host, PORT, ISN), CannotKnock)
        await self.assertFailure(RemoteDialer(reactor, self.path, "eth0").dial(HOST, PORT, ISN), CannotKnock)
        self.assertEqual(self.made, [])

    async def test_the_errors_are_those_of_a_dialer_in_this_process(self) -> None:
        """Those of a `RepairDialer`."""
        for said, kind, number in (
            ("no failed 111 Connection refused", ConnectionRefusedError, errno.ECONNREFUSED),
            ("no failed 110 Connection timed out", TCPTimedOutError, errno.ETIMEDOUT),
            ("no failed 113 No route to host", ConnectError, errno.EHOSTUNREACH),
            ("no failed 0 something", ConnectError, None),
        ):
            error = await self.failed("dialling", said)
            assert isinstance(error, ConnectError)
            self.assertIsInstance(error, kind)
            self.assertEqual(error.osError, number)
        for number in (99, None):
            error = await self.failed(f"no cannot {number or 0} no port is left")
            assert isinstance(error, CannotKnock)
            self.assertEqual((str(error), error.number), ("no port is left", number))
        self.assertIsInstance(await self.failed("no slipped too late"), Slipped)

    async def test_a_missing_service_is_named_with_the_remedy(self) -> None:
        """It says how to start one."""
        self.dialer = RemoteDialer(reactor, f"{self.path}-none")
        error = await self.failed("(never)")
        self.assertIsInstance(error, CannotKnock)
        self.assertIn(START, str(error))
        self.assertIn(f"{self.path}-none: No such file", str(error))

    async def test_a_service_that_refuses_this_user_is_named_with_the_remedy(self) -> None:
        """It says how to become one of those who may ask."""
        self.service.may_ask = lambda _: False
        error = await self.failed("(never)")
        self.assertIsInstance(error, CannotKnock)
        self.assertIn(JOIN, str(error))

    async def test_a_service_that_breaks_the_grammar_is_one_error(self) -> None:
        """A service that does not keep to the grammar: one clear error, and what it sent is closed."""
        await self.quiet()
        before = descriptors()
        for script in (
            ["ok"], ["(sockets)"], ["nonsense", "(never)"], ["tsval 5", "(socket)"], ["no"], ["no cannot"],
            ["no failed x y"], ["no failed"], ["no broken a fault"], ["no strange word"], ["dialling", "dialled", "ok"],
        ):  # fmt: skip
            error = await self.failed(*script)
            assert isinstance(error, ConnectError), (script, error)
            self.assertEqual((error.osError, str(error).count("\n")), (errno.ECONNABORTED, 0))
        self.script = ["(socket)"]  # without having asked for the ISN
        await self.assertFailure(self.dialer.dial_stamped(HOST, PORT, lambda tsval: tsval), ConnectError)
        await self.quiet()
        self.assertEqual(descriptors(), before)

    async def test_a_service_that_dies_is_a_connect_error(self) -> None:
        """A SYN may have left: a `ConnectError`; the next dial finds the next service."""
        self.script = ["dialling", "(never)"]
        dialling = self.dialer.dial(HOST, PORT, ISN)
        await self.until(lambda: self.heard)
        self.service.hang_up()
        error = await self.assertFailure(dialling, ConnectError)
        self.assertEqual(getattr(error, "osError", None), errno.ECONNABORTED)
        self.script = ["(socket)"]
        (await self.dialer.dial(HOST, PORT, ISN)).close()

    async def test_a_dial_that_a_stopped_service_never_took_is_its_fault(self) -> None:
        """Who gives up a dial that the service never took up is told that the service is the reason."""
        self.script = ["(never)"]
        clock = Clock()
        dialling = self.dialer.dial(HOST, PORT, ISN).addTimeout(5.0, clock)
        await self.until(lambda: self.heard)
        clock.advance(5.0)
        error = await self.assertFailure(dialling, ConnectError)
        self.assertIn(RESTART, str(error))
        await self.until(lambda: self.made[0].ends)

    async def test_a_dial_that_no_service_has_accepted_has_sent_no_syn(self) -> None:
        """It is given up while it waits for a place at a service that accepts nothing: `CannotKnock`."""
        path = f"{self.path}-stopped"
        with socket.socket(socket.AF_UNIX) as stopped, socket.socket(socket.AF_UNIX) as first:
            stopped.bind(path)
            stopped.listen(0)
            first.connect(path)
            clock = Clock()
            dialling = RemoteDialer(reactor, path).dial(HOST, PORT, ISN).addTimeout(5.0, clock)
            clock.advance(5.0)
            error = await self.assertFailure(dialling, CannotKnock)
        self.assertIn(RESTART, str(error))

    async def test_a_dial_that_is_given_up_is_cancelled_at_the_service(self) -> None:
        """Nobody answers the SYN: as with a dialer in this process, and the service learns of it."""
        self.script = ["tsval 5", "dialling", "(never)"]
        clock = Clock()
        for timed, kind in ((True, TimeoutError), (False, CancelledError)):
            dialling = self.dialer.dial_stamped(HOST, PORT, lambda tsval: tsval)
            if timed:
                dialling.addTimeout(5.0, clock)
            await self.until(lambda: len(self.heard) == 2)
            clock.advance(5.0)
            if not timed:
                dialling.cancel()
            await self.assertFailure(dialling, kind)
            await self.until(lambda: self.made[-1].ends)
            self.heard.clear()


class ErrorTests(SynchronousTestCase):
    """What is made of a `no`."""

    @given(st.sampled_from(["cannot", "failed", "slipped", "refused", "busy", "bad", "broken"]) | st.text(), st.text())
    def test_any_answer_is_one_of_a_dialers_errors(self, kind: str, text: str) -> None:
        """One of the three errors of a dialer."""
        self.assertIsInstance(_error(ServiceRefused(kind, text)), (CannotKnock, ConnectError, Slipped))
