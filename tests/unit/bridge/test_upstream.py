"""Tests of torknock.bridge.upstream: when the port is closed for tor's sake, and when tor is asked."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pluggable.errors import ORPortError
from torknock.bridge.upstream import Upstream


class UpstreamTests(SynchronousTestCase):
    """A tor that is up or not."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.fault: Exception | None = None
        self.asked: list[float] = []
        self.upstream = Upstream(self.clock, self.probe)

    async def probe(self) -> None:
        self.asked.append(self.clock.seconds())
        if self.fault is not None:
            raise self.fault

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.clock.advance(0.5)

    def test_a_tor_that_takes_clients_is_not_doubted(self) -> None:
        """It is asked once for each client that it turned away; a client's fault closes nothing."""
        for _ in range(3):
            self.upstream.turned_away()
            self.assertIsNone(self.upstream.refusing)
        self.assertEqual(len(self.asked), 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_takes_none_is_asked_until_it_does(self) -> None:
        """Ever more rarely, by one question at a time, whatever it answers; the first reason stays."""
        self.fault = ORPortError("Extended ORPort: tor closed the connection")
        self.upstream.turned_away()
        first = self.upstream.refusing
        self.assertIn("tor closed the connection", str(first))
        for fault in (ConnectionError("refused"), TypeError("a mistake")):
            self.fault = fault
            self.upstream.turned_away()
            self.pass_time(30)
            self.assertIs(self.upstream.refusing, first)
        pauses = [later - sooner for sooner, later in zip(self.asked, self.asked[1:], strict=False)]
        self.assertEqual(pauses[:6], [0.5, 1.0, 2.0, 4.0, 8.0, 8.0])
        self.fault = None
        self.pass_time(8)
        self.assertIsNone(self.upstream.refusing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_changes_its_mind_often_is_asked_rarely(self) -> None:
        """So the port does not flap. After a steady minute it is asked soon again."""
        for steady, soonest in ((0.0, 0.5), (1.0, 8.0), (60.0, 0.5)):
            self.pass_time(steady)
            self.fault, self.asked = ORPortError("no"), []
            self.upstream.turned_away()
            self.pass_time(40)
            self.assertEqual(self.asked[1] - self.asked[0], soonest)
            self.fault = None
            self.pass_time(8)
            self.assertIsNone(self.upstream.refusing)

    def test_who_stops_asks_no_more(self) -> None:
        """Neither while it waits, nor while tor is being asked."""
        self.fault = ORPortError("no")
        self.upstream.turned_away()
        self.upstream.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        cancelled: list[object] = []

        async def silent() -> None:
            await Deferred(cancelled.append)

        upstream = Upstream(self.clock, silent)
        upstream.turned_away()
        upstream.stop()
        self.assertEqual(len(cancelled), 1)
