"""Tests of torknock.service.descriptors: what peers pass to a service stops it in no way."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import threading
from array import array
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.unit.service.test_conversation import Echo
from tests.unit.service.test_requester import short_directory
from torknock.service import descriptors
from torknock.service.conversation import PeerConnection
from torknock.service.factory import PeerFactory
from torknock.service.listener import Accepting, listener
from torknock.service.requester import ServiceRefused, connect

reactor: Any = _reactor

LINGERS = 30
"""Seconds that a close of what is passed here would wait."""


class PassedTests(TestCase):
    """A service whose peers pass sockets that linger."""

    timeout = 120

    def begin(self, may_ask: bool = True, older: bool = False) -> None:
        """Start the service, on a kernel that is *older* than the refusal of descriptors."""
        if older:
            self.patch(descriptors, "refuse", lambda _: None)
        directory = short_directory()
        self.addCleanup(shutil.rmtree, directory)
        self.path = f"{directory}/socket"
        self.may_ask, self.began = may_ask, reactor.seconds()
        self.service = PeerFactory(reactor, lambda _: self.may_ask, self.converse)
        accepting = Accepting(reactor, listener(self.path, {}, 0), self.service)
        self.addCleanup(self.quiet)
        self.addCleanup(self.service.hang_up)
        self.addCleanup(accepting.stop)

    def converse(self, connection: PeerConnection) -> Echo:
        return Echo(connection)

    async def quiet(self) -> None:
        while self.service.connections or self.service.lingering:
            await deferLater(reactor, 0.01)
        await deferLater(reactor, 0.01)

    def lingering(self) -> socket.socket:
        """A TCP socket whose data nobody reads."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        sending = socket.create_connection(server.getsockname())
        reading, _ = server.accept()
        self.addCleanup(reading.close)
        sending.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sending.send(bytes(65536))
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGERS))
        return sending

    def guest(self, text: bytes, *more: int) -> socket.socket:
        """A peer that has said *text*, and passed such a socket, then *more*."""
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(self.path)
        with self.lingering() as passed:
            try:
                socket.send_fds(guest, [text], [passed.fileno(), *more])
            except PermissionError:
                passed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                guest.close()
                raise
        return guest

    async def serves(self) -> None:
        """Another peer is answered, before what was passed has stopped lingering."""
        self.may_ask = True
        connection = await connect(reactor, self.path)
        self.assertEqual((await connection.ask("one")).words, ("one",))
        connection.close()
        await self.quiet()
        self.assertLess(reactor.seconds() - self.began, LINGERS - 5)

    async def test_the_kernel_refuses_them(self) -> None:
        """At the peer: nothing comes, and the conversation goes on without."""
        self.begin()
        with socket.socket(socket.AF_UNIX) as probe:
            descriptors.refuse(probe)
            if not descriptors.refuses(probe):
                raise SkipTest("Linux before 6.16")
        with self.assertRaises(PermissionError):
            self.guest(b"one\n")
        await self.serves()

    async def test_none_is_received(self) -> None:
        """Of peers that may ask and that may not, alone, after a request, in hundreds, and inside each other.

        The connection ends, and all of a message are closed.
        """
        for may_ask in (True, False):
            self.begin(may_ask, older=True)
            reading, writing = os.pipe()
            sockets = self.hostile(writing)
            os.close(writing)
            for guest in sockets:
                guest.settimeout(LINGERS)
                with contextlib.suppress(ConnectionError):
                    while await deferToThread(guest.recv, 200):
                        pass
                guest.close()
            await self.serves()
            self.assertEqual(await deferToThread(os.read, reading, 1), b"")
            os.close(reading)
            self.assertLessEqual(sum(thread.name == "closing" for thread in threading.enumerate()), 4)

    def hostile(self, writing: int) -> list[socket.socket]:
        """Peers that have passed *writing* and sockets that linger, in each way that there is."""
        guests = [self.guest(b"one\n", writing), self.guest(b"on", writing)]
        guests += [self.guest(b"one\n", *[writing] * 252) for _ in range(20)]
        with self.lingering() as passed, contextlib.ExitStack() as stack:
            guests.append(self.come(b"one\none\n"))
            socket.send_fds(guests[-1], [b"one\n"], [passed.fileno(), writing])
            guests.append(self.come(b""))
            urgent = array("i", [passed.fileno(), writing])
            guests[-1].sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, urgent)], socket.MSG_OOB)
            guests[-1].send(b"one\n")
            inner: tuple[int, ...] = (passed.fileno(), writing)
            for _ in range(4):  # the kernel passes sockets in sockets so deep (net/core/scm.c)
                near, far = socket.socketpair()
                stack.enter_context(near)
                stack.enter_context(far)
                socket.send_fds(near, [b"!"], inner)
                inner = (far.fileno(),)
            guests.append(self.come(b""))
            socket.send_fds(guests[-1], [b"one\n"], inner)
        return guests

    def come(self, text: bytes) -> socket.socket:
        """A peer that has said *text*."""
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(self.path)
        guest.send(text)
        return guest

    async def test_before_the_service_listens(self) -> None:
        """What waits in the queue of a socket of systemd's may bring some, whatever the kernel refuses later."""
        self.begin(may_ask=False)
        self.patch(descriptors, "refuses", lambda _: False)
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(self.path)
            await deferLater(reactor, 0.05)
        await self.serves()

    async def test_errors_leak_nothing(self) -> None:
        """A descriptor whose close fails is closed like the others."""
        reading, writing = os.pipe()
        descriptors.closing.close(1_000_000)
        descriptors.closing.close(writing)
        self.assertEqual(await deferToThread(os.read, reading, 1), b"")
        os.close(reading)

    async def test_refused(self) -> None:
        """Without descriptors a peer that may not ask hears why at once, also of an older kernel."""
        self.begin(may_ask=False, older=True)
        connection = await connect(reactor, self.path)
        with self.assertRaises(ServiceRefused):
            await connection.ask("one")
        connection.close()
