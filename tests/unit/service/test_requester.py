"""Tests of torknock.service.requester, and of the service's end with it, over real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.measured import measured
from tests.unit.service.test_conversation import Echo
from torknock.service import requester
from torknock.service.conversation import PeerConnection
from torknock.service.factory import PER_USER, PeerFactory
from torknock.service.grammar import Malformed
from torknock.service.listener import Accepting, CannotServe, listener
from torknock.service.peers import Guests, Peer, peer
from torknock.service.requester import ServiceConnection, ServiceLost, ServiceMissing, ServiceRefused, connect

reactor: Any = _reactor
ROOT = Path(__file__).parent.parent.parent.parent


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def short_directory() -> str:
    """A new one: the path of a Unix socket has at most 107 octets."""
    return tempfile.mkdtemp(prefix="torknock-")


class ConversationTests(TestCase):
    """A service, and who asks it."""

    timeout = 60

    def setUp(self) -> None:
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory)
        self.path = f"{directory}/socket"
        self.made: list[Echo] = []
        self.service = PeerFactory(reactor, lambda _: True, self.converse)
        accepting = Accepting(reactor, listener(self.path, {}, 0), self.service)
        self.addCleanup(self.quiet)
        self.addCleanup(accepting.stop)
        self.heard: list[str] = []
        self.lost = 0

    def converse(self, connection: PeerConnection) -> Echo:
        self.made.append(Echo(connection))
        return self.made[-1]

    def connect(self) -> Deferred[ServiceConnection]:
        def kept(connection: ServiceConnection) -> ServiceConnection:
            self.addCleanup(connection.close)
            return connection

        return connect(reactor, self.path, self.hears, self.loses).addCallback(kept)

    def hears(self, _connection: ServiceConnection, line: str) -> None:
        self.heard.append(line)

    def loses(self, _connection: ServiceConnection) -> None:
        self.lost += 1

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.01)

    async def quiet(self) -> None:
        """Everybody is gone, and the reactor has seen it."""
        await self.until(lambda: not (self.service.connections or self.service.lingering))
        await deferLater(reactor, 0.01)

    async def test_one_request_is_sent_after_the_other(self) -> None:
        """One is asked after the other, whoever asks."""
        connection = await self.connect()
        first, second = connection.ask("one"), connection.ask("two words")
        self.assertEqual([(await each).words for each in (second, first)], [("two", "words"), ("one",)])

    async def test_sockets_come_with_their_answer(self) -> None:
        """They come with their answer, for us alone, and are not given to programs that we start."""
        connection = await self.connect()
        first, second = (await connection.ask("sockets")).descriptors
        self.assertEqual([first.get_inheritable(), second.get_inheritable()], [False, False])
        for each in (first, second):
            each.close()
        self.assertEqual((await connection.ask("one")).descriptors, ())

    async def test_descriptors_that_are_not_taken_are_closed(self) -> None:
        """Sockets that nobody takes are closed, at both ends, and so are descriptors that the service never wanted."""
        await self.quiet()
        before = descriptors()
        with socket.socket(socket.AF_UNIX) as guest, open(os.devnull) as uninvited:
            guest.connect(self.path)
            with contextlib.suppress(PermissionError):  # the kernel refuses them
                socket.send_fds(guest, [b"one\n"], [uninvited.fileno()] * 5)
            await self.until(lambda: self.made)
        asked = (await self.connect()).ask("sockets")
        asked.cancel()
        await self.assertFailure(asked, CancelledError)
        for each in [await self.connect() for _ in range(10)]:
            each.ask("sockets").addErrback(lambda _: None)
            each.close()
        await self.quiet()
        self.assertEqual(descriptors(), before)

    async def test_unasked_lines_come_to_the_listener(self) -> None:
        """Lines that nobody asked for come to who listens to them."""
        connection = await self.connect()
        await connection.ask("one")
        self.made[0].connection.tell("news 1")
        asked = self.made[0].connection.ask("judge 1", "judged")
        await self.until(lambda: len(self.heard) == 2)
        connection.tell("judged 0")
        self.assertEqual(await asked, "judged 0")
        self.assertEqual(self.heard, ["news 1", "judge 1"])

    async def test_an_unasked_line_without_a_listener_ends_the_connection(self) -> None:
        """Then such a line ends the connection."""
        connection = await connect(reactor, self.path)
        await connection.ask("one")
        self.made[0].connection.tell("news 1")
        await self.quiet()
        await self.assertFailure(connection.ask("one"), ServiceLost)

    async def test_an_answer_to_nothing(self) -> None:
        """It ends the connection, before it is taken for the next answer."""
        connection = await self.connect()
        await connection.ask("one")
        self.made[0].connection.tell("ok then")
        await self.until(lambda: self.lost)
        await self.assertFailure(connection.ask("one"), ServiceLost)

    async def test_a_refusal_is_an_error_with_its_word_and_text(self) -> None:
        """It is an error, with its word and its text; the next request finds the connection ended."""
        connection = await self.connect()
        with self.assertRaises(ServiceRefused) as refused:
            await connection.ask("malformed")
        self.assertEqual((refused.exception.kind, str(refused.exception)), ("bad", "not that"))
        await self.assertFailure(connection.ask("one"), ServiceLost)
        await self.until(lambda: self.lost)
        self.assertEqual(self.lost, 1)

    async def test_what_the_service_says_before_a_request_is_the_answer(self) -> None:
        """What the service says before it was asked is the answer."""
        self.service.may_ask = lambda _: False
        for wait in (False, True):
            connection = await self.connect()
            if wait:
                await self.until(lambda: self.lost == 2)
            with self.assertRaises(ServiceRefused) as refused:
                await connection.ask("one")
            self.assertEqual(refused.exception.kind, "refused")

    async def test_not_allowed_while_it_writes(self) -> None:
        """What a peer writes after it was refused neither fails nor takes the reason from it."""
        self.service.may_ask = lambda _: False
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(self.path)
            await self.until(lambda: select.select([guest], [], [], 0)[0])
            for _ in range(3):
                guest.send(b"one\n")
            self.assertEqual(guest.recv(11), b"no refused ")

    async def test_of_too_many_peers_the_first_are_served(self) -> None:
        """Hundreds that connect are told so, and the first ones are served."""
        first = await self.connect()
        await first.ask("one")
        many = [await self.connect() for _ in range(PER_USER - 1)]
        await self.until(lambda: len(self.service.connections) == PER_USER)
        for _ in range(200):
            with self.assertRaises(ServiceRefused) as refused:
                await (await self.connect()).ask("one")
            self.assertEqual(refused.exception.kind, "busy")
        self.assertEqual((await first.ask("one")).words, ("one",))
        self.assertEqual((await many[-1].ask("one")).words, ("one",))

    async def test_more_waiting_than_are_taken(self) -> None:
        """Who comes while the service has no time, and many wait, is not told that there is none."""
        crowded = self.mktemp()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(crowded)
            listening.listen(0)
            connecting = [connect(reactor, crowded) for _ in range(4)]
            self.assertNoResult(connecting[-1])
            listening.setblocking(False)
            accepted = []
            while not all(each.called for each in connecting):
                with contextlib.suppress(BlockingIOError):
                    accepted.append(listening.accept()[0])
                await deferLater(reactor, 0.02)
            for connected in connecting:
                (await connected).close()
            for each in accepted:
                each.close()

    async def test_a_request_fails_when_the_service_ends(self) -> None:
        """Who waits for an answer is told when the service ends."""
        connection = await self.connect()
        waiting = connection.ask("later")
        await self.until(lambda: self.made)
        self.service.hang_up()
        await self.assertFailure(waiting, ServiceLost)
        await self.assertFailure(connection.ask("one"), ServiceLost)
        connection.tell("nothing")
        await self.until(lambda: self.lost)
        self.assertEqual(self.lost, 1)

    async def test_the_service_learns_that_a_request_was_given_up(self) -> None:
        """The service learns that nobody waits any more."""
        connection = await self.connect()
        waiting = connection.ask("later")
        await self.until(lambda: self.made)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        await self.until(lambda: self.made[0].ends == 1 and self.lost == 1)

    async def test_what_cannot_be_said(self) -> None:
        """Is not sent, and the connection stays."""
        connection = await self.connect()
        await self.assertFailure(connection.ask("no  line"), Malformed)
        self.assertEqual((await connection.ask("one")).words, ("one",))

    async def test_a_service_that_does_not_answer_is_missing(self) -> None:
        """No socket, no service behind it, one that does not take connections."""
        self.patch(requester, "_BREATH", 0.0)
        await self.assertFailure(connect(reactor, f"{self.path}-none"), ServiceMissing)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(f"{self.path}-dead")
        await self.assertFailure(connect(reactor, f"{self.path}-dead"), ServiceMissing)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stopped:
            stopped.bind(f"{self.path}-stopped")
            stopped.listen(0)
            with socket.socket(socket.AF_UNIX) as first, self.assertRaises(ServiceMissing) as missing:
                first.connect(f"{self.path}-stopped")
                await connect(reactor, f"{self.path}-stopped")
            self.assertEqual(missing.exception.reason, "it does not answer")
        await self.assertFailure(connect(reactor, "x" * 200), ServiceMissing)


class ListenerTests(SynchronousTestCase):
    """`listener`."""

    def setUp(self) -> None:
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory)
        self.path = f"{directory}/socket"

    def test_the_socket_is_for_its_owner_and_its_group(self) -> None:
        """For its owner and its group."""
        with listener(self.path, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, 2):
            self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o660)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)

    def test_a_socket_that_was_left_behind_is_replaced(self) -> None:
        """What a service that has died left is replaced; what lives, or is no socket, is not."""
        listener(self.path, {}, 0).close()
        with listener(self.path, {}, 0):
            self.assertRaises(CannotServe, listener, self.path, {}, 0)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)
        os.unlink(self.path)
        Path(self.path).write_text("mine")
        self.assertRaises(CannotServe, listener, self.path, {}, 0)
        self.assertEqual(Path(self.path).read_text(), "mine")

    def test_a_missing_directory_is_said_in_one_line(self) -> None:
        """It is said in one line."""
        error = self.assertRaises(CannotServe, listener, f"{self.path}/none", {}, 0)
        self.assertNotIn("\n", str(error))

    def test_the_socket_of_systemd_is_taken_over(self) -> None:
        """The socket that systemd passes is taken over; anything else that it passes is an error."""
        program = (
            "import os, sys; from torknock.service.listener import listener, CannotServe\n"
            "try: taken = listener('/nonexistent', os.environ, os.getpid())\n"
            "except CannotServe as error: sys.exit(str(error))\n"
            "print(taken.getsockname(), taken.get_inheritable(), taken.getblocking())\n"
        )
        for family, how_many, expected in (("UNIX", 1, True), ("UNIX", 2, False), ("INET", 1, False)):
            address = f"{self.path}-{how_many}" if family == "UNIX" else ("127.0.0.1", 0)
            with socket.socket(socket.AF_UNIX if family == "UNIX" else socket.AF_INET, socket.SOCK_STREAM) as passed:
                passed.bind(address)
                passed.listen()
                done = subprocess.run(
                    ["bash", "-c", f'exec 3<&{passed.fileno()}; LISTEN_PID=$$ LISTEN_FDS={how_many} exec "$@"', "bash",
                     sys.executable, "-c", program],
                    pass_fds=[passed.fileno()], env={"PYTHONPATH": str(ROOT), **measured()}, capture_output=True,
                    text=True, check=False,
                )  # fmt: skip
            if expected:
                self.assertEqual((done.stdout, done.stderr), (f"{address} False False\n", ""))
            else:
                self.assertEqual((done.returncode, done.stderr[:8], done.stderr.count("\n")), (1, "systemd ", 1))


class PeersTests(SynchronousTestCase):
    """Who is there, and who may ask."""

    def test_a_peer_is_the_user_that_the_kernel_names(self) -> None:
        """As the kernel says."""
        near, far = socket.socketpair()
        with near, far:
            self.assertEqual(peer(near), Peer(os.getuid(), frozenset({os.getgid(), *os.getgroups()})))

    def test_guests_are_root_and_the_named_users_and_groups(self) -> None:
        """Root always; a user by name; a group's members by its name; a name that nobody has lets nobody in."""
        guests = Guests.named(["nobody", "no-such-user"], ["daemon", "no-such-group"])
        self.assertTrue(guests.may_ask(Peer(0, frozenset())))
        self.assertTrue(guests.may_ask(Peer(65534, frozenset())))
        self.assertTrue(guests.may_ask(Peer(4711, frozenset({5, 1}))))
        self.assertFalse(guests.may_ask(Peer(4711, frozenset({0, 4711}))))
        self.assertFalse(Guests.named([], []).may_ask(Peer(65534, frozenset({0}))))
