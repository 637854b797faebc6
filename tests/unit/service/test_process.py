"""Tests of torknock.service.process and of how a service accepts its peers."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import socket
import tempfile
from typing import Any, cast

from twisted.internet.defer import succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger, capturedLogs, globalLogBeginner
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.memory_kernel import MemoryReactor
from tests.support.reactor import reactor
from torknock.errors import TorknockError
from torknock.service import descriptors, process
from torknock.service.listener import Accepting, listener
from torknock.service.process import LACKS_CAPABILITY, serve


class Running(MemoryReactor):
    """A reactor that has run once it is run."""

    ran = 0

    def run(self) -> None:
        self.ran += 1


class Unable(MemoryReactor):
    """A reactor that can serve no connection."""

    def adoptStreamConnection(self, *_: Any) -> None:
        raise OSError(errno.EMFILE, "no")


class Peers(Factory[Protocol]):
    """Peers that are hung up on."""

    ended = 0

    def hang_up(self) -> Any:
        self.ended += 1
        return succeed(None)


class ServeTests(SynchronousTestCase):
    """`serve`."""

    def setUp(self) -> None:
        self.log = io.StringIO()
        self.observers: list[Any] = []
        self.patch(globalLogBeginner, "beginLoggingTo", lambda seen, **_: self.observers.extend(seen))
        self.near, far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(far.close)

    def serve(self, powerful: bool) -> tuple[Running, Peers]:
        self.patch(process, "may_administer_network", lambda: powerful)
        running, peers = Running(), Peers()
        serve(cast(Any, running), cast(Any, peers), self.near, self.log)
        return running, peers

    def test_without_the_capability_nothing_is_served(self) -> None:
        """It says by which units it is started."""
        error = self.assertRaises(TorknockError, self.serve, False)
        self.assertIn(LACKS_CAPABILITY, str(error))

    def test_its_end_ends_every_conversation(self) -> None:
        """And takes no further peer."""
        running, peers = self.serve(True)
        self.assertEqual((running.ran, len(running.readers)), (1, 1))
        for each in running.at_end:
            each()
        self.assertEqual((peers.ended, running.readers, self.near.fileno()), (1, [], -1))

    def test_a_line_of_the_log_has_no_text_of_an_exception(self) -> None:
        """It may hold an address; where it happened is told. What others say is told if it is a warning."""
        self.serve(True)
        [observer] = self.observers
        with capturedLogs() as logged:
            try:
                raise RuntimeError("192.0.2.1")
            except RuntimeError:
                Logger("torknock.some").failure("it failed\nhere")
            Logger("torknock.some").info("all is {how}", how="well")
            Logger("torknock.some").debug("too much")
            Logger("twisted.some").info("too much")
            Logger("twisted.some").warn("something")
        for each in logged:
            observer(each)
        first, *others = self.log.getvalue().splitlines()
        self.assertRegex(first, r"^it failed here: RuntimeError \[test_process\.py:\d+ test_a_line")
        self.assertNotIn("192.0.2.1", first)
        self.assertEqual(others, ["all is well", "something"])
        self.flushLoggedErrors(RuntimeError)


class Hearing(Protocol):
    """Hears what a peer says, and how it ends."""

    def __init__(self, heard: list[bytes], lost: list[Failure]) -> None:
        self.heard, self.lost = heard, lost

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


class AcceptingTests(TestCase):
    """`Accepting`."""

    def setUp(self) -> None:
        directory = tempfile.mkdtemp(prefix="s-")
        self.addCleanup(shutil.rmtree, directory)
        self.path = f"{directory}/socket"
        self.listening = listener(self.path, {}, 0)
        self.heard: list[bytes] = []
        self.lost: list[Failure] = []
        self.factory: Any = Factory.forProtocol(lambda: Hearing(self.heard, self.lost))
        self.factory.noisy = False

    def come(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        self.addCleanup(peer.close)
        peer.connect(self.path)
        return peer

    def accept(self, running: Any) -> Accepting:
        accepting = Accepting(running, self.listening, self.factory)
        self.addCleanup(accepting.stop)
        return accepting

    async def until(self, there: list[Any]) -> None:
        while not there:
            await deferLater(reactor, 0.01)

    async def test_a_peer_is_heard_until_it_goes(self) -> None:
        """One that brings descriptors is not heard, unless the kernel refuses them."""
        self.assertEqual(self.accept(reactor).logPrefix(), "listener")
        peer = self.come()
        peer.send(b"hello")
        await self.until(self.heard)
        peer.close()
        await self.until(self.lost)
        self.assertEqual(self.heard, [b"hello"])
        if not descriptors.refuses(self.listening):
            self.lost.clear()
            reading, writing = os.pipe()
            socket.send_fds(self.come(), [b"and this"], [writing])
            os.close(writing)
            await self.until(self.lost)
            self.assertEqual(self.heard, [b"hello"])
            os.close(reading)

    async def test_a_peer_that_is_gone_at_once_says_nothing(self) -> None:
        """Nor does it take anything with it: the next one is heard."""
        self.accept(reactor)
        self.come().close()
        await self.until(self.lost)
        self.come().send(b"hello")
        await self.until(self.heard)

    def test_without_descriptors_it_waits(self) -> None:
        """The log says so, and a second later it accepts again, unless it has been stopped."""
        running = MemoryReactor()
        accepting = self.accept(running)
        self.come()
        free = os.dup(0)
        os.close(free)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for stopped in (False, True):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            with capturedLogs() as logged:
                accepting.doRead()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            self.assertEqual([each["reason"] for each in logged], ["Too many open files"])
            self.assertEqual(running.readers, [])
            if stopped:
                accepting.connectionLost(Failure(Exception()))
            running.advance(1)
            self.assertEqual(running.readers, [] if stopped else [accepting])

    def test_a_connection_that_cannot_be_served_is_closed(self) -> None:
        """Whatever the reactor says."""
        peer = self.come()
        with capturedLogs() as logged:
            self.accept(Unable()).doRead()
        self.assertEqual([each["reason"] for each in logged], ["no"])
        peer.settimeout(30)
        self.assertEqual(peer.recv(1), b"")
