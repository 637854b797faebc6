"""Tests of torknock.operate.status_view."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.reactor import reactor
from torknock.bridge.status_report import (
    FIGURES,
    LONGEST,
    SOCKET,
    LineInUse,
    Status,
    StatusError,
    Trouble,
    Warned,
    odds,
    to_json,
)
from torknock.errors import TorknockError
from torknock.operate.status_view import BridgeUnreachable, Report, as_json, ask, follow, look, picture
from torknock.tor.watch import TorSeen, TorUnseen, Watch

BRIDGE = Status(
    version="1.0",
    uptime=7_300,
    posture="closed",
    port=443,
    connections=3,
    opened=12_345,
    let_in=12_400,
    refused=1_234_567,
    given_nothing=1,
    lines=2,
    lines_in_use=2,
    tokens=24,
    held=23,
    in_use=(LineInUse("alice", 1, 45), LineInUse("bob", 2, 12_300)),
    warnings=(Warned(Trouble.GUESSING, "possible brute force: 50,000 SYNs without a valid token in the last minute"),),
)
TOR = TorSeen("0.4.9.11", 100, 7, True, ())


def drawn(report: Report, width: int = 120) -> str:
    """As on a terminal without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(picture(report))
    return captured.get()


class PictureTests(SynchronousTestCase):
    """What people see."""

    def test_the_picture_has_every_figure_and_line(self) -> None:
        """With the line that is used most first."""
        lines = [" ".join(line.split()) for line in drawn(Report(BRIDGE, TOR)).splitlines()]
        self.assertEqual(
            [line for line in lines if line and not line.startswith("─")],
            [
                "torknock 1.0, up for about 2 hours",
                "port 443, closed",
                "connections 3 now, 12,345 since the start, 1 without a proof, 0 not taken by the site",
                "SYNs 12,400 let in, about 1,234,567 refused",
                "lines 2 live, 2 in use",
                f"tokens 24 live: {odds(BRIDGE.tokens)}",
                "kernel 23 tokens held",
                "tor 0.4.9.11, bootstrapped 100 %, ORPort answers, 7 OR connections",
                "line in use connections now since the start",
                "bob 2 12,300",
                "alice 1 45",
                "! possible brute force: 50,000 SYNs without a valid token in the last minute",
            ],
        )

    def test_what_is_not_known_is_not_said(self) -> None:
        """The gate does not count, no line is in use, tor is not seen."""
        quiet = replace(BRIDGE, refused=None, held=None, in_use=(), warnings=())
        said = drawn(Report(quiet, TorUnseen("No such file or directory")))
        self.assertIn("12,400 let in, others not counted", said)
        self.assertIn("tokens not known", said)
        self.assertIn("control port not reachable: No such file or directory", said)
        self.assertNotIn("line in use", said)
        self.assertNotIn("!", said)

    def test_every_figure_of_the_table_is_shown(self) -> None:
        """In its own words, in the row that the table names."""
        lines = drawn(Report(BRIDGE, TOR)).splitlines()
        for name, figure in FIGURES.items():
            [row] = [line for line in lines if line.startswith(f"{figure.row} ")]
            self.assertIn(figure.words(getattr(BRIDGE, name)), row)

    def test_a_complaint_of_tor_is_a_warning(self) -> None:
        """That is a warning too."""
        said = drawn(Report(BRIDGE, replace(TOR, or_port_answers=False, complaints=("Managed proxy: no",))))
        self.assertIn("ORPort does not answer", said)
        self.assertIn("! tor says: Managed proxy: no", said)

    def test_a_tor_that_takes_no_clients_says_what_it_does(self) -> None:
        """What it does instead is said, not that it has no ORPort."""
        said = drawn(Report(BRIDGE, replace(TOR, or_port_answers=None, refusing="is shutting down")))
        self.assertIn("! tor is shutting down: no client gets through", said)
        self.assertNotIn("it has no ORPort", said)

    def test_markup_in_what_a_bridge_says_is_text(self) -> None:
        """What the bridge says draws nothing of its own."""
        said = drawn(Report(replace(BRIDGE, posture="[red]x[/red]", in_use=(LineInUse("[b]", 1, 1),)), TOR))
        self.assertIn("[red]x[/red]", said)
        self.assertIn("[b]", said)

    @given(st.integers(20, 200), st.integers(0, 2**63 - 1))
    def test_any_width_and_any_number(self, width: int, number: int) -> None:
        """No terminal is too narrow."""
        bridge = replace(BRIDGE, uptime=number, connections=number, tokens=number % 2**32)
        self.assertTrue(all(len(line) <= width for line in drawn(Report(bridge, TOR), width).splitlines()))

    def test_json_is_one_object_with_the_odds(self) -> None:
        """One object, with what the tokens mean."""
        told = json.loads(as_json(Report(BRIDGE, TOR)))
        self.assertEqual(told["syns_to_a_hit"], 178_956_970)
        self.assertEqual(told["in_use"][0], {"name": "alice", "connections": 1, "opened": 45})
        self.assertEqual(told["warnings"][0]["trouble"], "guessing")
        self.assertEqual(told["tor"]["bootstrapped"], 100)
        self.assertEqual(json.loads(as_json(Report(BRIDGE, TorUnseen("no"))))["tor"], {"reason": "no"})


class Saying(Protocol):
    """Says some pieces, and closes."""

    pieces: Sequence[bytes] = ()

    def connectionMade(self) -> None:
        assert self.transport is not None
        for piece in self.pieces:
            self.transport.write(piece)
        self.transport.loseConnection()


class AskTests(TestCase):
    """A bridge, or what is in its place."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.watch = Watch(reactor, str(self.directory / "control"))

    async def says(self, *pieces: bytes) -> None:
        """From now on the bridge says *pieces*."""
        factory: Factory[Saying] = Factory.forProtocol(Saying)
        factory.protocol = type("Says", (Saying,), {"pieces": pieces})
        port = await UNIXServerEndpoint(reactor, str(self.directory / SOCKET)).listen(factory)
        self.addCleanup(port.stopListening)

    async def refused(self, kind: type[TorknockError]) -> str:
        """Why nothing is heard."""
        try:
            await ask(reactor, self.directory)
        except kind as error:
            self.assertTrue(str(error).isprintable())
            return str(error)
        self.fail("something was heard")

    async def test_the_status_is_read_whole_in_however_many_pieces(self) -> None:
        """Whole, in however many pieces it speaks; tor is not needed."""
        octets = to_json(BRIDGE)
        await self.says(octets[:7], octets[7:])
        report = await look(reactor, self.directory, self.watch)
        self.assertEqual(report.bridge, BRIDGE)
        self.assertIsInstance(report.tor, TorUnseen)

    async def test_a_bridge_that_cannot_be_reached_is_one_error(self) -> None:
        """No socket, a dead one, no directory, a path that no socket can have."""
        self.assertIn("No such file or directory; start tor", await self.refused(BridgeUnreachable))
        (self.directory / SOCKET).write_text("")
        self.assertIn("Connection refused", await self.refused(BridgeUnreachable))
        self.directory /= "d" * 200
        self.assertIn("at most 107 octets", await self.refused(BridgeUnreachable))

    async def test_a_bridge_that_says_nothing(self) -> None:
        """It has too many askers."""
        await self.says()
        self.assertIn("it closed the connection", await self.refused(BridgeUnreachable))

    async def test_a_bridge_that_says_half(self) -> None:
        """It may have died at it."""
        await self.says(to_json(BRIDGE)[:-5])
        await self.refused(StatusError)

    async def test_a_bridge_that_says_too_much(self) -> None:
        """It is not heard to its end."""
        await self.says(b" " * (2 * LONGEST))
        self.assertIn("too long", await self.refused(StatusError))

    async def test_the_status_is_read_again_until_that_is_cancelled(self) -> None:
        """Again and again, until that is cancelled."""
        await self.says(to_json(BRIDGE))
        seen: list[Report] = []
        twice: Deferred[None] = Deferred()

        def show(report: Report) -> None:
            seen.append(report)
            if len(seen) == 2:
                reactor.callLater(0, twice.callback, None)

        following = Deferred.fromCoroutine(follow(reactor, self.directory, self.watch, show))
        await twice
        following.cancel()
        self.assertEqual([report.bridge for report in seen], [BRIDGE, BRIDGE])
        with self.assertRaises(CancelledError):
            await following
