"""Tests of torknock.bridge.publish and torknock.bridge.metrics."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.keeper import QuietKeeper
from tests.support.reactor import reactor
from torknock.bridge.counts import Counts, Identity, Monitor
from torknock.bridge.metrics import BadMetrics, Metrics, parse_metrics
from torknock.bridge.publish import Publication, StatusFactory
from torknock.bridge.status_report import SOCKET, from_json


class Reader(Protocol):
    """Says something, and reads up to the end."""

    def __init__(self, said: bytes = b"") -> None:
        self.said = said
        self.read = b""
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.said)

    def dataReceived(self, data: bytes) -> None:
        self.read += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.read)


async def told(endpoint: IStreamClientEndpoint, said: bytes = b"") -> bytes:
    """All that is to be read at *endpoint*."""
    reader = Reader(said)
    await connectProtocol(endpoint, reader)
    return await reader.ended.addTimeout(30, reactor)


def monitor(clock: IReactorTime) -> Monitor:
    """One of a bridge that somebody called alice uses."""
    counts = Counts(clock)
    counts.opened("alice", lambda: None)
    return Monitor(clock, Identity("1.0", "closed", 443), counts, QuietKeeper())


class StatusFactoryTests(SynchronousTestCase):
    """Those who come, and what they are told."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.tellers = StatusFactory(self.clock, monitor(self.clock))

    def come(self) -> tuple[Any, StringTransport]:
        """One more."""
        transport = StringTransport()
        teller: Any = self.tellers.buildProtocol(None)
        teller.makeConnection(transport)
        return teller, transport

    def test_each_is_told_at_once(self) -> None:
        """And no more is said."""
        _teller, transport = self.come()
        self.assertEqual(from_json(transport.value()).opened, 1)
        self.assertTrue(transport.disconnecting)

    def test_who_does_not_read_is_dropped(self) -> None:
        """Patience has an end; for one who reads nothing is left waiting."""
        teller, transport = self.come()
        self.clock.advance(4.9)
        self.assertFalse(transport.disconnected)
        self.clock.advance(0.2)
        self.assertTrue(transport.disconnected)
        teller.connectionLost(Failure(ConnectionAborted()))
        teller, _transport = self.come()
        teller.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_many_are_turned_away(self) -> None:
        """Until one of the others has left."""
        tellers = [self.come()[0] for _ in range(16)]
        teller, transport = self.come()
        self.assertEqual((transport.value(), transport.disconnected), (b"", True))
        teller.connectionLost()
        tellers[0].connectionLost()
        self.assertEqual(from_json(self.come()[1].value()).opened, 1)


class PublicationCase(TestCase):
    """A directory to publish in."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.path = self.directory / SOCKET

    async def publish(self, metrics: Metrics | None = None, directory: Path | None = None) -> Publication:
        """What is published until the test ends."""
        made = Publication(reactor, monitor(reactor), directory or self.directory, metrics)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        await made.start()
        return made

    def status(self, said: bytes = b"") -> Deferred[bytes]:
        """What the socket tells."""
        return Deferred.fromCoroutine(told(UNIXClientEndpoint(reactor, str(self.path)), said))


class SocketTests(PublicationCase):
    """`status.sock`."""

    async def test_a_bridge_with_one_line_is_published(self) -> None:
        """To the owner alone, and then the connection is closed."""
        await self.publish()
        octets = await self.status()
        self.assertEqual(octets.count(b"\n"), 1)
        status = from_json(octets)
        self.assertEqual((status.refused, status.in_use[0].name), (7, "alice"))
        mode = self.path.stat().st_mode
        self.assertEqual((stat.S_ISSOCK(mode), stat.S_IMODE(mode)), (True, 0o600))

    async def test_what_an_asker_says_changes_nothing(self) -> None:
        """There is no grammar."""
        await self.publish()
        self.assertEqual(from_json(await self.status(b"GET / HTTP/1.1\r\n\r\n")).port, 443)

    async def test_what_a_dead_bridge_left_is_replaced(self) -> None:
        """Its socket, which nobody listens on."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(self.path))
        await self.publish()
        self.assertEqual(from_json(await self.status()).port, 443)

    async def test_a_live_bridge_is_not_replaced(self) -> None:
        """The second says so in its log, and runs on without; once the first has gone, a third tells its own."""
        first = await self.publish()
        inode = self.path.stat().st_ino
        with capturedLogs() as logged:
            second = await self.publish()
        self.assertEqual([event["reason"] for event in logged if "reason" in event], ["Address already in use"])
        self.assertEqual(self.path.stat().st_ino, inode)
        await second.stop()
        from_json(await self.status())
        await first.stop()
        await self.publish()
        from_json(await self.status())

    async def test_another_kind_of_file_is_left_alone(self) -> None:
        """It is somebody's."""
        self.path.write_text("mine")
        with capturedLogs() as logged:
            await self.publish()
        self.assertEqual(len([event for event in logged if "reason" in event]), 1)
        self.assertEqual(self.path.read_text(), "mine")

    async def test_a_path_that_is_too_long(self) -> None:
        """The log says that there is no status; the bridge does not fail."""
        directory = self.directory / ("d" * 100)
        directory.mkdir()
        with capturedLogs() as logged:
            await self.publish(directory=directory)
        (event,) = (event for event in logged if "reason" in event)
        self.assertEqual((event["path"], event["reason"]), (directory / SOCKET, "AF_UNIX path too long"))

    async def test_nothing_is_left_behind_of_a_stop(self) -> None:
        """Nobody answers any more."""
        publication = await self.publish()
        await publication.stop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
            self.assertRaises(ConnectionRefusedError, asker.connect, str(self.path))


class MetricsTests(PublicationCase):
    """The endpoint for Prometheus."""

    async def page(self, endpoint: IStreamClientEndpoint, path: str = "/metrics") -> tuple[str, str]:
        """Status line and body of *path*."""
        request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
        head, _, body = (await told(endpoint, request.encode())).decode().partition("\r\n\r\n")
        return head.partition("\r\n")[0], body

    def check(self, page: tuple[str, str]) -> None:
        """It is what Prometheus reads, and holds counts alone."""
        status, body = page
        self.assertTrue(status.endswith(" 200 OK"), status)
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        self.assertEqual(samples.pop(("torknock_uptime_seconds",)), 0)
        self.assertEqual(
            samples,
            {
                ("torknock_connections",): 1,
                ("torknock_connections_opened_total",): 1,
                ("torknock_syns_let_in_total",): 0,
                ("torknock_syns_refused_total",): 7,
                ("torknock_given_nothing_total",): 0,
                ("torknock_site_failed_total",): 0,
                ("torknock_lines",): 1,
                ("torknock_lines_in_use",): 1,
                ("torknock_tokens",): 24,
                ("torknock_tokens_held",): 24,
                ("torknock_warning", "closed"): 0,
                ("torknock_warning", "guessing"): 0,
                ("torknock_warning", "hit-near"): 0,
                ("torknock_warning", "given-nothing"): 0,
                ("torknock_warning", "ignored"): 0,
                ("torknock_warning", "tokens-missing"): 0,
                ("torknock_warning", "site"): 0,
            },
        )
        self.assertNotIn("alice", body)
        self.assertNotIn("python", body)

    async def test_metrics_are_served_on_a_unix_socket(self) -> None:
        """For its owner and the owner's group."""
        path = self.directory / "metrics.sock"
        await self.publish(parse_metrics(str(path)))
        self.check(await self.page(UNIXClientEndpoint(reactor, str(path))))
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)
        self.assertEqual((await self.page(UNIXClientEndpoint(reactor, str(path)), "/"))[0][-13:], "404 Not Found")

    async def test_metrics_are_served_on_loopback(self) -> None:
        """A port that was free a moment ago; nobody's request is logged."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        await self.publish(parse_metrics(f"127.0.0.1:{port}"))
        with capturedLogs() as logged:
            self.check(await self.page(TCP4ClientEndpoint(reactor, "127.0.0.1", port)))
        self.assertEqual([event for event in logged if "127.0.0.1" in str(event)], [])

    async def test_connections_to_the_metrics_are_limited(self) -> None:
        """Any local user may connect: 16 of theirs are kept, and no more, so that descriptors remain."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        await self.publish(parse_metrics(f"127.0.0.1:{port}"))
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        held = []
        for _ in range(16):
            held.append(socket.create_connection(("127.0.0.1", port)))
            self.addCleanup(held[-1].close)
        request = b"GET /metrics HTTP/1.0\r\n\r\n"
        self.assertEqual(await told(endpoint, request), b"")
        held[0].close()
        while not await told(endpoint, request):
            pass

    async def test_a_port_that_is_taken(self) -> None:
        """The log says so, the bridge and its status do without; and nothing is left of the try."""
        with socket.create_server(("127.0.0.1", 0)) as taken, capturedLogs() as logged:
            await self.publish(Metrics("127.0.0.1", taken.getsockname()[1]))
        self.assertEqual([event["reason"] for event in logged if "reason" in event], ["Address already in use"])
        from_json(await self.status())

    async def test_metrics_are_off_unless_they_are_configured(self) -> None:
        """Then there is one socket and nothing else."""
        await self.publish()
        self.assertEqual(os.listdir(self.directory), [SOCKET])


class PlaceTests(SynchronousTestCase):
    """`metrics=`."""

    def test_loopback_and_paths_are_places_for_metrics(self) -> None:
        """Loopback of either family, or a path."""
        self.assertEqual(parse_metrics("127.0.0.1:9100"), Metrics("127.0.0.1", 9100))
        self.assertEqual(parse_metrics("[::1]:443"), Metrics("::1", 443))
        self.assertEqual(parse_metrics("/run/m.sock"), Metrics("/run/m.sock"))

    def test_other_places_for_metrics_are_refused(self) -> None:
        """Where others could read, or nothing that can be listened on."""
        others = ("0.0.0.0:9100", "192.0.2.7:9100", "[::]:9100")
        for text in (*others, "127.0.0.1", "127.0.0.1:0", "m.sock", "localhost:1"):
            self.assertRaises(BadMetrics, parse_metrics, text)

    @given(st.text())
    def test_any_text_is_a_place_or_refused(self, text: str) -> None:
        """No other error comes, and no place is open to others."""
        try:
            place = parse_metrics(text)
        except BadMetrics:
            return
        self.assertTrue(place.where.startswith(("/", "127.")) or place.where == "::1")
