"""Tests of torknock.privileged.dial.repair and of what it is made of, over loopback, with a repair mode in memory."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.memory_kernel import MemoryReactor
from tests.support.memory_repair import HERE, THERE, MemoryRepair
from tests.support.reactor import reactor
from torknock.interfaces import CannotKnock, Dialled, Slipped
from torknock.kernel.capability import NO_CAPABILITY
from torknock.kernel.socket_options import TCP_FASTOPEN_CONNECT, TCP_QUEUE_SEQ, TCP_REPAIR
from torknock.privileged.dial import ports, repair, timestamp
from torknock.privileged.dial.connecting import Waiting
from torknock.privileged.dial.ports import Ports, local_ports
from torknock.privileged.dial.repair import RepairDialer
from torknock.privileged.dial.timestamp import NOT_HELD_BACK, Foresight, Stamp
from torknock.privileged.dial.tuples import SAME_TUPLE_AFTER, Tuples

ISN = 0xC0FFEE42


def four_ports() -> tuple[int, socket.socket]:
    """The first of four ports that no program has and that no `connect` chooses; a program listens on the second."""
    for low in range(61_000, 65_000, 4):
        try:
            for port in range(low, low + 4):
                socket.create_server(("127.0.0.1", port)).close()
            return low, socket.create_server(("127.0.0.1", low + 1))
        except OSError:
            continue
    raise AssertionError("no ports are free")


class Later:
    """The reactor, with a clock that tests can turn."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = self.clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class DialCase(TestCase):
    """A program that listens on loopback, and a dialer."""

    def setUp(self) -> None:
        self.program = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.addCleanup(self.program.close)
        self.port = self.program.getsockname()[1]
        self.kernel, self.later = MemoryRepair(), Later()
        self.dialled = Tuples()
        self.dialer = self.made()

    def made(self, bind: str | None = None) -> RepairDialer:
        return self.kernel.dialer()(cast(Any, self.later), bind, dialled=self.dialled)

    async def source(self, host: str = THERE) -> Any:
        """The address and port that a dial comes from."""
        with await self.dialer.dial(host, self.port, ISN) as connected:
            return connected.getsockname()

    async def cannot(self, host: str = "127.0.0.1", port: int = 443) -> CannotKnock:
        """Why nothing leaves."""
        left = len(self.kernel.left)
        error = await self.assertFailure(self.dialer.dial(host, port, ISN), CannotKnock)
        self.assertEqual((len(self.kernel.left), self.kernel.still_open()), (left, 0))
        return cast(CannotKnock, error)


class DialTests(DialCase):
    """`dial`."""

    async def test_the_syn_has_the_isn(self) -> None:
        """The socket is connected, does not block, and is inherited by no program."""
        for isn in (1, ISN, 2**32 - 1):
            with await self.dialer.dial("127.0.0.1", self.port, isn) as connected:
                self.assertEqual(connected.getpeername(), ("127.0.0.1", self.port))
                self.assertEqual((connected.getblocking(), connected.get_inheritable()), (False, False))
            self.assertEqual(self.kernel.left[-1], ("127.0.0.1", self.port, isn))
        self.assertEqual(self.kernel.still_open(), 0)
        for isn in (0, 2**32):
            self.assertRaises(ValueError, self.dialer.dial, "127.0.0.1", self.port, isn)

    async def test_an_ipv4_address_in_an_ipv6_one_is_dialled_as_ipv4(self) -> None:
        """As an IPv6 socket would."""
        (await self.dialer.dial("::ffff:127.0.0.1", self.port, ISN)).close()
        self.assertEqual(self.kernel.left, [("127.0.0.1", self.port, ISN)])

    async def test_a_refusal_is_an_error_of_its_own(self) -> None:
        """The SYN has left, and the socket is closed."""
        self.program.close()
        await self.assertFailure(self.dialer.dial("127.0.0.1", self.port, ISN), ConnectionRefusedError)
        self.assertEqual((len(self.kernel.left), self.kernel.still_open()), (1, 0))

    async def test_a_dial_that_is_given_up_closes_its_socket(self) -> None:
        """Whatever comes later."""
        dialling = self.dialer.dial("127.0.0.1", self.port, ISN)
        dialling.cancel()
        await self.assertFailure(dialling, CancelledError)
        self.assertEqual(self.kernel.still_open(), 0)

    async def test_what_is_no_address_is_not_dialled(self) -> None:
        """Neither the bridge's nor the one to dial from."""
        self.assertIn("not an IP address", str(await self.cannot("bridge.example", 443)))
        self.dialer = self.made("here")
        self.assertIn("or where from, is not", str(await self.cannot(THERE, 443)))
        self.assertIn("needs its interface, as in fe80::1%eth0", str(await self.cannot("fe80::1", 443)))
        self.assertIn("no knock could leave", str(await self.cannot("fe80::1%nothing", 443)))

    async def test_a_missing_capability_is_told(self) -> None:
        """At whichever step the kernel refuses."""
        for option in (TCP_REPAIR, TCP_QUEUE_SEQ):
            self.kernel.refuses = {option: errno.EPERM}
            error = await self.cannot()
            self.assertIn(NO_CAPABILITY, str(error))
            self.assertEqual(error.number, errno.EPERM)

    async def test_a_kernel_without_ipv6_is_told(self) -> None:
        """With what the user can do."""
        self.kernel.refuses = {-1: errno.EAFNOSUPPORT}
        self.assertIn("ask the operator for a line with an IPv4 address", str(await self.cannot("2001:db8::1", 443)))

    async def test_a_syn_that_finds_no_way_out(self) -> None:
        """The token is as good as before."""
        self.kernel.answers = errno.ENETUNREACH
        error = await self.assertFailure(self.dialer.dial("127.0.0.1", self.port, ISN), CannotKnock)
        self.assertIn("Network is unreachable; look at its addresses and routes", str(error))
        self.assertEqual(self.kernel.still_open(), 0)


class PortTests(DialCase):
    """Which source ports are taken."""

    async def test_it_comes_from_the_address_that_it_is_told(self) -> None:
        """But to loopback."""
        self.dialer = self.made("127.0.0.9")
        self.assertEqual((await self.source())[0], HERE)
        self.assertEqual((await self.source("127.0.0.1"))[0], "127.0.0.1")

    async def test_no_pair_is_dialled_twice(self) -> None:
        """The kernel's next choice is taken, and is remembered."""
        self.kernel.walk = [50_001, 50_001, 50_002]
        self.assertEqual(await self.source(), (HERE, 50_001))
        self.assertEqual(await self.source(), (HERE, 50_002))

    async def test_a_port_is_drawn_if_the_kernel_knows_none(self) -> None:
        """One that no other socket has, of those that it may have."""
        low, other = four_ports()
        self.addCleanup(other.close)
        self.patch(repair, "local_ports", lambda: Ports(low, low + 3))
        found = set()
        for _ in range(3):
            self.kernel.walk = [low]
            found.add((await self.source())[1])
        self.assertEqual(found, {low, low + 2, low + 3})
        self.kernel.walk = [low]
        error = await self.cannot(THERE, self.port)
        self.assertIn("of 4 source ports 3 were used for this bridge in the last 5 minutes, and other", str(error))

    async def test_a_port_is_drawn_again_after_a_while(self) -> None:
        """No observer compares its ISNs any more."""
        low, other = four_ports()
        other.close()
        self.patch(repair, "local_ports", lambda: Ports(low, low))
        self.kernel.walk = [low]
        connected = await self.dialer.dial(THERE, self.port, ISN)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its port is free at once
        connected.close()
        self.later.clock.advance(SAME_TUPLE_AFTER - 1)
        self.kernel.walk = [low]
        self.assertIn("of 1 source ports 1 were used", str(await self.cannot(THERE, self.port)))
        self.later.clock.advance(1)
        self.kernel.walk = [low]
        self.assertEqual((await self.source())[1], low)

    async def test_no_port_at_all(self) -> None:
        """That is said, with what to look at."""
        self.kernel.walk = []
        self.assertIn("source ports are used up", str(await self.cannot(THERE, self.port)))

    def test_the_kernels_ports(self) -> None:
        """Without those that the host has reserved."""
        place = Path(self.mktemp())
        place.mkdir()
        (place / "ip_local_port_range").write_text("32768\t60999\n")
        (place / "ip_local_reserved_ports").write_text("40000,40010-40012\n")
        self.patch(ports, "SYSCTLS_IPV4", place)
        self.assertEqual(local_ports(), Ports(32768, 60999, frozenset({40000, 40010, 40011, 40012})))
        (place / "ip_local_reserved_ports").write_text("\n")
        self.assertEqual(local_ports(), Ports(32768, 60999))
        self.assertEqual([port for port in range(5) if port in Ports(1, 3, frozenset({2}))], [1, 3])


class StampedTests(DialCase):
    """`dial_stamped`: the clock is this kernel's."""

    async def stamped(self, asked: list[int]) -> Dialled:
        """A dial, again where this host was too busy."""

        def choose(tsval: int) -> int:
            asked[:] = [tsval]
            return ISN

        while True:
            try:
                return await self.dialer.dial_stamped("127.0.0.1", self.port, choose)
            except Slipped:
                await deferLater(reactor, 0)

    async def test_the_isn_is_chosen_for_the_timestamp_that_is_sent(self) -> None:
        """Both come back."""
        asked: list[int] = []
        dialled = await self.stamped(asked)
        dialled.socket.close()
        self.assertEqual((dialled.isn, [dialled.tsval]), (ISN, asked))
        self.assertEqual(self.kernel.still_open(), 0)

    async def test_no_isn_is_no_syn(self) -> None:
        """0 gives it up; so does an answer that comes too late."""

        def late(_: int) -> int:
            time.sleep(0.02)
            return ISN

        for choose in (lambda _: 0, late):
            error = await self.assertFailure(self.dialer.dial_stamped("127.0.0.1", self.port, choose), Slipped)
            self.assertFalse(cast(Slipped, error).sent)
        self.assertEqual((self.kernel.left, self.kernel.still_open()), ([], 0))

    async def test_a_fault_of_the_chooser_closes_the_socket(self) -> None:
        """And is the caller's to see."""

        def broken(_: int) -> int:
            raise RuntimeError("fault")

        self.assertRaises(RuntimeError, self.dialer.dial_stamped, "127.0.0.1", self.port, broken)
        self.assertEqual(self.kernel.still_open(), 0)

    async def test_a_syn_that_left_with_another_timestamp(self) -> None:
        """It is given up; the token may be spent."""
        self.patch(Stamp, "missed", lambda *_: True)
        while True:
            error = await self.assertFailure(self.dialer.dial_stamped("127.0.0.1", self.port, lambda _: ISN), Slipped)
            if cast(Slipped, error).sent:
                break
        self.assertEqual((len(self.kernel.left), self.kernel.still_open()), (1, 0))

    async def test_a_host_whose_syns_have_no_timestamp(self) -> None:
        """The ISN is chosen for none, and nothing is waited for."""
        self.patch(timestamp, "stamps", lambda: False)
        asked: list[int] = []
        dialled = await self.stamped(asked)
        dialled.socket.close()
        self.assertEqual((asked, dialled.tsval), ([0], 0))

    async def test_a_kernel_that_holds_no_syn_back(self) -> None:
        """It says what to set."""
        self.kernel.refuses = {TCP_FASTOPEN_CONNECT: errno.EOPNOTSUPP}
        dialling = self.dialer.dial_stamped("127.0.0.1", self.port, lambda _: ISN)
        self.assertEqual(cast(Any, await self.assertFailure(dialling, CannotKnock)).args[0][:20], NOT_HELD_BACK[:20])
        self.kernel.refuses = {}
        for status, told in ((errno.EINPROGRESS, NOT_HELD_BACK), (errno.ENETUNREACH, "Network is unreachable")):
            made = _Answering(status)
            error = self.assertRaises(
                (CannotKnock, OSError), Foresight, ("127.0.0.1", 0), ("127.0.0.1", self.port), lambda _, made=made: made
            )
            self.assertIn(told[:60], str(error))
            self.assertEqual(made.fileno(), -1)


class _Answering(socket.socket):
    """A socket of which `connect` returns *status*."""

    def __init__(self, status: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._status = status

    def setsockopt(self, *option: Any) -> None:
        """Whatever it is."""

    def connect_ex(self, _: Any) -> int:
        return self._status


class WaitingTests(SynchronousTestCase):
    """`Waiting`: a socket whose SYN has left."""

    def setUp(self) -> None:
        self.reactor = MemoryReactor()
        self.near, far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(far.close)
        self.connected: list[socket.socket] = []
        self.failed: list[Exception] = []
        self.waiting = Waiting(cast(Any, self.reactor), self.near, self.connected.append, self.failed.append)

    def test_an_answer_counts_once(self) -> None:
        """One turn of the reactor may call for input and for output."""
        self.assertEqual(self.waiting.fileno(), self.near.fileno())
        self.waiting.doWrite()
        self.waiting.doRead()
        self.assertEqual((self.connected, self.failed), ([self.near], []))

    def test_a_reactor_that_gives_it_up(self) -> None:
        """It is a failure, and the socket is closed."""
        self.waiting.connectionLost(Failure(ConnectError()))
        self.assertEqual((self.reactor.readers, self.reactor.writers), ([], []))
        [error] = self.failed
        self.assertEqual((getattr(error, "osError", None), self.near.fileno()), (errno.ECONNABORTED, -1))
        self.assertEqual(os.strerror(errno.ECONNABORTED), error.args[0])
