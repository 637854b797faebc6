"""Tests of torknock.channel.shapes, and of channel `tls` with a shaped stream."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from tests.unit.channel import peer
from tests.unit.channel.test_shaper import CELL, octets, seeded
from tests.unit.channel.test_tls import ISN, LINE, Scene
from tests.unit.channel.wire import Wire
from torknock.channel.hello import OpenSSLHello
from torknock.channel.shapes import EXCHANGES, Shapes, exchanges_in, shipped
from torknock.channel.tls_client import ClientTLS
from torknock.channel.tls_server import ServerTLS
from torknock.protocol.exchanges import BadExchanges, Site, exchange, write_site
from torknock.protocol.plan import EXCHANGES as PLANNED
from torknock.protocol.plan import Plan

SHAPED = replace(LINE, shape=True)
SITE = Site("", ((exchange(0.01, 620, [4000], 0.005), exchange(0.02, 580, [30_000], 0.001)),))
RULE = 39
"""514 k + 39 octets is the length of a TLS record that holds a record of tor's with k cells."""


class _Rich:
    """`test_tls.Chance` for what is asked of it, and seeded chance for plans."""

    def __init__(self) -> None:
        self._chance = seeded(5)
        self.randbytes, self.randint, self.uniform = (
            self._chance.randbytes, self._chance.randint, self._chance.uniform,
        )  # fmt: skip


class FileTests(Scene):
    """Where the exchanges come from."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)

    def test_those_of_the_directory_go_before_the_shipped_ones(self) -> None:
        """Which are used where there is no file."""
        self.assertIs(exchanges_in(self.directory), shipped())
        (self.directory / EXCHANGES).write_text(write_site(SITE))
        self.assertEqual(exchanges_in(self.directory), SITE)

    def test_a_file_that_cannot_be_used_is_refused(self) -> None:
        """It is not replaced by the shipped ones: those would not be the operator's."""
        path = self.directory / EXCHANGES
        for octets_ in (b"", b"{}", b"\xff", b"[" * 9999):
            path.write_bytes(octets_)
            self.assertRaises(BadExchanges, exchanges_in, self.directory)
        path.unlink()
        path.mkdir()
        self.assertRaises(BadExchanges, exchanges_in, self.directory)

    def test_what_is_shipped_is_of_many_pages(self) -> None:
        """No two plans are alike, and nearly none has an exchange in common with tor's cells."""
        site = shipped()
        self.assertGreater(len(site.pages), 300)
        self.assertIn("Chromium", site.taken)
        plans = [tuple(Plan(site, seeded(seed)).exchanges) for seed in range(100)]
        self.assertEqual(len(set(plans)), 100)
        lengths = [size + 17 for plan in plans for one in plan for size in (one.request, *one.answers)]
        self.assertLess(sum((length - RULE) % CELL == 0 for length in lengths), len(lengths) / 100)
        self.assertGreater(sum(len(plan) == PLANNED for plan in plans), 50)


class ShapedTests(Scene):
    """Both ends of channel `tls` with a line that has shape=1."""

    def setUp(self) -> None:
        super().setUp()
        self.server = ServerTLS(self.clock, peer.PRIVATE_KEY, _Rich(), SITE)
        self.client = ClientTLS(self.clock, _Rich(), OpenSSLHello(), SITE)

    def shaped(self, cut: int = 1 << 18) -> Wire:
        wire, opened = self.open(self.accept((SHAPED,)), SHAPED, cut=cut)
        self.successResultOf(opened)
        self.let_pass(wire, 0.02)  # the first request has its time too
        return wire

    def let_pass(self, wire: Wire, seconds: float = 5.0) -> None:
        for _ in range(int(seconds * 100)):
            self.clock.advance(0.01)
            wire.run()

    def records(self, said: list[bytes]) -> list[int]:
        """The lengths of the application data records in *said*."""
        stream, lengths = b"".join(said), []
        while stream:
            length = int.from_bytes(stream[3:5])
            if stream[0] == 23:
                lengths.append(length)
            stream = stream[5 + length :]
        return lengths

    def test_octets_pass_in_both_directions_in_planned_records(self) -> None:
        """The first record after the client's Finished holds the hello, and has the size of the first request."""
        for cut in (1 << 18, 700):
            self.setUp()
            wire = self.shaped(cut)
            there, back = octets(6 * CELL + 22, 1), octets(90 * CELL, 2)
            self.here.transport.write(there)
            self.there.transport.write(back)
            self.let_pass(wire)
            self.assertEqual((b"".join(self.there.heard), b"".join(self.here.heard)), (there, back))
            self.assertEqual(self.whose, [0])
            _, first, second, *_ = self.records(wire.client.said)
            self.assertTrue(abs(first - 17 - 620) <= 24 and abs(second - 17 - 580) <= 24, (first, second))
            self.assertIn(4000 + 17, self.records(wire.server.said))

    def test_no_three_records_have_the_length_of_tors(self) -> None:
        """Which three of the first 30 have on each connection of tor's in plain TLS."""
        for shape in (True, False):
            self.setUp()
            line = SHAPED if shape else LINE
            wire, _ = self.open(self.accept((line,)), line)
            self.let_pass(wire, 0.02)
            for count in (1, 2, 1, 3, 1):
                self.here.transport.write(octets(count * CELL + 22))
                self.there.transport.write(octets(count * CELL + 22))
                self.let_pass(wire, 0.1)
            first = (self.records(wire.client.said) + self.records(wire.server.said))[:30]
            cells = sum((length - RULE) % CELL == 0 for length in first)
            (self.assertLess if shape else self.assertGreaterEqual)(cells, 3, first)

    def test_a_wrong_proof_is_met_with_silence(self) -> None:
        """As without a shape: what follows it is never read as frames."""
        wire, stock = self.knock((SHAPED,))
        stock.say(self.prove(stock, replace(SHAPED, secret=b"x" * 32)) + b"\xff" * 64)
        wire.run()
        self.assertEqual((self.whose, self.there.made, wire.server.aborted), ([], 0, False))

    def test_a_line_that_is_not_shaped_meets_one_that_is(self) -> None:
        """Two lines of one token: the proof says which, and the stream is as that line says."""
        other = replace(LINE, secret=b"o" * 32)
        for line, index in ((other, 1), (SHAPED, 0)):
            self.setUp()
            wire, opened = self.open(self.accept((SHAPED, other)), line)
            self.successResultOf(opened)
            self.here.transport.write(b"hello")
            self.let_pass(wire)
            self.assertEqual((b"".join(self.there.heard), self.whose), (b"hello", [index]))

    def test_a_shaped_connection_ends_as_another(self) -> None:
        """Either side may close it; the other is told once, and no timer is left but the channel's."""
        for side in ("here", "there"):
            self.setUp()
            wire = self.shaped()
            getattr(self, side).transport.write(b"last words")
            getattr(self, side).transport.loseConnection()
            self.let_pass(wire)
            other: Any = self.there if side == "here" else self.here
            self.assertEqual((b"".join(other.heard), len(other.losses)), (b"last words", 1))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shapes_have_the_shipped_exchanges_unless_named(self) -> None:
        """For the transports that have no file."""
        self.assertIs(Shapes(Clock(), seeded(1)).site, shipped())
        self.assertEqual(len(self.client.open(SHAPED, ISN, "192.0.2.7", Protocol())), 2)
