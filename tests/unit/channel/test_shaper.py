"""Tests of torknock.channel.shaper and framed, over a connection in memory with a clock."""

from __future__ import annotations

import random
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.unit.channel.wire import End, Wire
from torknock.channel.held import HELD_AT_MOST
from torknock.channel.shaper import PENDING_AT_MOST, BridgeShaper, ClientShaper
from torknock.protocol.exchanges import Exchange, Site, exchange
from torknock.protocol.frames import FRAME_AT_MOST, HEAD, FrameReader, write_frame
from torknock.protocol.plan import Plan, Rhythm

SITE = Site("", (
    (exchange(0, 690, [3210], 0.001), exchange(0.04, 580, [16384, 5075], 0.002), exchange(0.001, 570, [20000], 0)),
    (exchange(0, 600, [300], 0.02), exchange(0.1, 565, [2401], 0.001)),
))  # fmt: skip
CELL = 514


def seeded(seed: int) -> random.Random:
    """The same chance each time."""
    return random.Random(seed)  # noqa: S311


class Upper(Protocol):
    """Keeps what it is told."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.losses: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.losses.append(reason)


@implementer(IHalfCloseableProtocol)
class Half(Upper):
    """One that knows of half-closed connections."""

    ends = ""

    def readConnectionLost(self) -> None:
        self.ends += "r"

    def writeConnectionLost(self) -> None:
        self.ends += "w"


class Producer:
    """What writes, and is paused."""

    states = ""

    def pauseProducing(self) -> None:
        self.states += "p"

    def resumeProducing(self) -> None:
        self.states += "r"

    def stopProducing(self) -> None:
        self.states += "s"


class HalfEnd(End):
    """An end whose direction can be closed by itself."""

    saying_no_more = said_no_more = False

    def loseWriteConnection(self) -> None:
        self.saying_no_more = True


class HalfWire(Wire):
    """A connection whose directions can be closed one by one."""

    def __init__(self, client: Protocol, server: Protocol, cut: int) -> None:
        self.cut = cut
        both: Any = (client, server)
        self.client, self.server = (HalfEnd(each, *End.__init__.__defaults__ or (None, None)) for each in both)
        server.makeConnection(self.server)
        client.makeConnection(self.client)

    def run(self) -> None:
        super().run()
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            assert isinstance(sender, HalfEnd)
            if sender.saying_no_more and not sender.said_no_more and not sender.waiting and sender.connected:
                sender.said_no_more = True
                self.end_of_stream(receiver)
                sender.protocol.writeConnectionLost()  # type: ignore[attr-defined]
                self.run()


class Scene:
    """A client's and a bridge's shaper with one clock, and an upper protocol at each."""

    def __init__(self, seed: int = 1, cut: int = 1 << 18, opening: bytes = b"") -> None:
        self.clock = Clock()
        self.here, self.there = Half(), Half()
        chance = seeded(seed)
        self.plan = Plan(SITE, chance)
        self.planned = list(self.plan.exchanges)
        self.client = ClientShaper(self.clock, self.here, self.plan, opening)
        self.bridge = BridgeShaper(self.clock, self.there, Rhythm(SITE, chance))
        self.wire = HalfWire(self.client, self.bridge, cut)
        self.wire.run()

    def go(self, seconds: float = 0.0) -> None:
        """Let *seconds* pass, as finely as timers need it, and move what there is to move."""
        until = self.clock.seconds() + seconds
        self.wire.run()
        while (calls := self.clock.getDelayedCalls()) and min(each.getTime() for each in calls) <= until:
            self.clock.advance(max(0.0, min(each.getTime() for each in calls) - self.clock.seconds()))
            self.wire.run()
        self.clock.advance(max(0.0, until - self.clock.seconds()))
        self.wire.run()


def octets(size: int, of: int = 0) -> bytes:
    """*size* octets of which no two stretches are alike."""
    return seeded(of).randbytes(size)


class PlanTests(SynchronousTestCase):
    """The first exchanges."""

    def exchanged(self, scene: Scene) -> None:
        said = [len(each) for each in scene.wire.client.said]
        self.assertEqual(said[: len(scene.planned)], [one.request for one in scene.planned])
        answered = [len(each) for each in scene.wire.server.said]
        pieces = [piece for one in scene.planned for piece in one.answers]
        self.assertEqual(answered[: len(pieces)], pieces)

    def test_a_quiet_connection_has_the_planned_sizes(self) -> None:
        """All of it is padding; then nothing more is sent, and no timer is left."""
        scene = Scene()
        scene.go(10)
        self.exchanged(scene)
        self.assertEqual(len(scene.wire.client.said), len(scene.planned))
        self.assertEqual((scene.here.heard, scene.there.heard, scene.clock.getDelayedCalls()), (b"", b"", []))

    def test_cells_take_the_planned_sizes(self) -> None:
        """What is written waits for its slot, and arrives whole."""
        scene = Scene()
        there, back = octets(20 * CELL, 1), octets(80 * CELL, 2)
        for at in range(0, len(there), CELL):
            scene.client.write(there[at : at + CELL])
        for at in range(0, len(back), CELL):
            scene.bridge.write(back[at : at + CELL])
            scene.go(0.01)
        scene.go(10)
        self.exchanged(scene)
        self.assertEqual((scene.there.heard, scene.here.heard), (there, back))

    def test_no_record_has_the_length_of_tors_cells_in_tls(self) -> None:
        """514 k + 22 octets of tor's TLS in a record of ours would be 514 k + 39 on the wire."""
        for seed in range(40):
            scene = Scene(seed)
            for count in (1, 1, 2, 1, 3, 1, 1):
                scene.client.write(octets(CELL * count + 22))
                scene.bridge.write(octets(CELL * count + 22))
                scene.go(0.02)
            first = [len(each) for each in (*scene.wire.client.said[:15], *scene.wire.server.said[:15])]
            self.assertLess(sum((size - 22) % CELL == 0 for size in first), 3, first)

    def test_what_must_come_first_is_in_the_first_request(self) -> None:
        """In a record of the planned size; and before all else if the plan is over before it began."""
        opening = b"o" * 34
        scene = Scene.__new__(Scene)
        scene.clock, scene.here = Clock(), Half()
        plan = Plan(SITE, seeded(3))
        planned = plan.exchanges[0]
        shaper = ClientShaper(scene.clock, scene.here, plan, opening)
        end = HalfWire(shaper, Upper(), 1 << 18).client
        scene.clock.advance(planned.think)
        self.assertEqual([len(each) for each in end.said], [planned.request])
        self.assertTrue(end.said[0].startswith(opening))
        FrameReader(asks=True).feed(end.said[0][len(opening) :])
        hasty = ClientShaper(scene.clock, Half(), Plan(SITE, seeded(3)), opening)
        end = HalfWire(hasty, Upper(), 1 << 18).client
        hasty.write(b"data")
        hasty.loseConnection()
        self.assertEqual(b"".join(end.said)[: len(opening)], opening)
        self.assertEqual(FrameReader(asks=True).feed(b"".join(end.said)[len(opening) :]).data, b"data")

    def test_an_answer_that_was_asked_for_before_comes_first(self) -> None:
        """At once, and the first request of the plan waits for it."""
        clock, chance, site = Clock(), seeded(1), Site("", ((exchange(0, 100, [300], 0),) * 2,))
        client = ClientShaper(clock, Half(), Plan(site, chance), awaited=20_000)
        bridge = BridgeShaper(clock, Half(), Rhythm(site, chance), 20_000)
        wire = HalfWire(client, bridge, 1 << 18)
        clock.advance(10)
        self.assertEqual((wire.client.said, [len(each) for each in wire.server.said]), ([], [20_000]))
        wire.run()
        clock.advance(1)
        self.assertEqual(len(wire.client.said), 1)

    def test_a_request_waits_for_its_time_and_for_the_answer_before(self) -> None:
        """Nothing leaves before the think time is over, nor while the answer is not whole."""
        scene = Scene()
        self.assertEqual(scene.wire.client.said, [])
        scene.wire.client.paused = True  # the answer does not arrive
        scene.go(30)
        self.assertEqual((len(scene.wire.client.said), len(scene.wire.server.said)), (1, 1))
        scene.wire.client.paused = False
        scene.go(10)
        self.exchanged(scene)


class FreeTests(SynchronousTestCase):
    """After the plan."""

    def test_a_write_leaves_at_once(self) -> None:
        """Small ones of the client are as long as a request, and the bridge's have up to 1,200 octets of padding."""
        scene = Scene()
        scene.go(10)
        requests = {one.request for page in SITE.pages for one in page}
        scene.client.write(b"x" * CELL)
        scene.bridge.write(b"y" * CELL)
        scene.wire.run()
        self.assertIn(len(scene.wire.client.said[-1]), requests)
        self.assertTrue(0 <= len(scene.wire.server.said[-1]) - CELL - HEAD <= 1200)
        self.assertEqual((scene.there.heard, scene.here.heard), (b"x" * CELL, b"y" * CELL))

    def test_a_long_write_is_cut_into_records(self) -> None:
        """Of which all but the last are full."""
        scene = Scene()
        scene.go(10)
        scene.client.writeSequence([octets(50_000), octets(50_000, 2)])
        scene.wire.run()
        self.assertEqual(scene.there.heard, octets(50_000) + octets(50_000, 2))
        self.assertEqual(len(scene.wire.client.said[-1]) // FRAME_AT_MOST, 6)


class EndTests(SynchronousTestCase):
    """Ends, in the middle of the plan and after it."""

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_octets_are_neither_lost_nor_doubled(self, draw: st.DataObject) -> None:
        """Whatever is written when, however it is cut, with pauses, and whichever side closes which way."""
        scene = Scene(draw.draw(st.integers(0, 1000)), draw.draw(st.integers(1, 5000)))
        sent = {"client": b"", "bridge": b""}
        for _ in range(draw.draw(st.integers(0, 10))):
            side = draw.draw(st.sampled_from(["client", "bridge"]))
            piece = octets(draw.draw(st.integers(0, 9000)), draw.draw(st.integers(0, 99)))
            shaper: Any = getattr(scene, side)
            shaper.write(piece)
            sent[side] += piece
            if draw.draw(st.booleans()):
                shaper.pauseProducing()
            scene.go(draw.draw(st.floats(0, 0.3)))
            shaper.resumeProducing()
        ending = draw.draw(st.sampled_from(["none", "half", "whole"]))
        side, other = draw.draw(st.permutations(["client", "bridge"]))
        if ending != "none":
            shaper = getattr(scene, side)
            (shaper.loseWriteConnection if ending == "half" else shaper.loseConnection)()
            shaper.write(b"too late")
        scene.go(30)
        heard = {"client": scene.there, "bridge": scene.here}
        self.assertEqual(heard[side].heard, sent[side])
        if ending != "whole":
            self.assertEqual(heard[other].heard, sent[other])
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_a_half_close_in_the_middle_of_the_plan(self) -> None:
        """What waits leaves at once, the other direction goes on, and both uppers are told once."""
        for side, other in (("client", "bridge"), ("bridge", "client")):
            scene = Scene()
            scene.go(0.05)
            ends: dict[str, Any] = {"client": scene.here, "bridge": scene.there}
            shapers: dict[str, Any] = {"client": scene.client, "bridge": scene.bridge}
            shapers[side].write(octets(30_000))
            shapers[side].loseWriteConnection()
            scene.go(1)
            shapers[other].write(octets(40_000, 2))
            scene.go(1)
            self.assertEqual((ends[other].heard, ends[side].heard), (octets(30_000), octets(40_000, 2)), side)
            self.assertEqual((ends[side].ends, ends[other].ends), ("w", "r"))

    def test_a_peer_that_knows_no_half_close_is_closed(self) -> None:
        """As TCP's own transport does it."""
        clock, upper = Clock(), Upper()
        end = HalfEnd(BridgeShaper(clock, upper, Rhythm(SITE, seeded(1))), None, None)  # type: ignore[arg-type]
        end.protocol.makeConnection(end)
        end.protocol.readConnectionLost()  # type: ignore[attr-defined]
        self.assertTrue(end.disconnecting)

    def test_a_loss_in_the_middle_of_the_plan(self) -> None:
        """The upper protocols are told once, the producer is stopped, and no timer is left."""
        scene = Scene()
        producer = Producer()
        scene.bridge.registerProducer(producer, True)
        scene.go(0.001)
        scene.wire.client.lose(ConnectionLost())
        scene.wire.server.lose(ConnectionDone())
        self.assertEqual([len(each.losses) for each in (scene.here, scene.there)], [1, 1])
        self.assertEqual((scene.clock.getDelayedCalls(), producer.states), ([], "s"))
        scene.client.write(b"late")
        scene.client.loseConnection()

    def test_a_cut(self) -> None:
        """An operator's `--cut` and a drain's end: at once, whatever waits."""
        scene = Scene()
        scene.bridge.write(octets(9000))
        scene.bridge.abortConnection()
        scene.wire.run()
        self.assertEqual([len(each.losses) for each in (scene.here, scene.there)], [1, 1])
        self.assertEqual((scene.here.heard, scene.clock.getDelayedCalls()), (b"", []))

    def test_a_close_lets_what_waits_leave_first(self) -> None:
        """In the middle of the plan, in frames that are not planned."""
        scene = Scene()
        scene.bridge.write(octets(90_000))
        scene.bridge.loseConnection()
        scene.go(1)
        self.assertEqual((scene.here.heard, scene.here.ends), (octets(90_000), "r"))
        self.assertEqual(len(scene.there.losses), 1)


class LimitTests(SynchronousTestCase):
    """Back-pressure, and peers that do not keep to the protocol."""

    def setUp(self) -> None:
        self.events: list[Any] = []

        @implementer(ILogObserver)
        def observe(event: Any) -> None:
            if "why" in event:
                self.events.append(event["why"])

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_a_producer_is_paused_while_much_waits_for_slots(self) -> None:
        """And goes on once there is room."""
        scene, producer = Scene(), Producer()
        scene.client.registerProducer(producer, True)
        scene.client.write(octets(HELD_AT_MOST))
        self.assertEqual(producer.states, "")
        scene.client.write(b"!")
        self.assertEqual(producer.states, "p")
        scene.go(10)
        self.assertEqual((producer.states, scene.there.heard), ("pr", octets(HELD_AT_MOST) + b"!"))

    def test_a_full_channel_pauses_the_producer(self) -> None:
        """After the plan as TCP does it."""
        scene, producer = Scene(), Producer()
        scene.go(10)
        scene.bridge.registerProducer(producer, True)
        scene.wire.client.paused = True
        scene.bridge.write(octets(100_000))
        self.assertEqual(producer.states, "p")
        scene.wire.client.paused = False
        scene.wire.run()
        self.assertEqual(producer.states, "pr")

    def test_a_client_that_asks_and_never_reads_takes_bounded_memory(self) -> None:
        """No answer is made while the channel is full; asking on is refused in one line."""
        clock, upper = Clock(), Upper()
        shaper = BridgeShaper(clock, upper, Rhythm(SITE, seeded(1)))
        end = HalfEnd(shaper, None, None)  # type: ignore[arg-type]
        shaper.makeConnection(end)
        for _ in range(PENDING_AT_MOST + 1):
            shaper.dataReceived(write_frame(b"", HEAD, 60_000))
            clock.advance(1)
        self.assertLess(end.most_waiting, 200_000)
        self.assertTrue(end.aborted)
        self.assertEqual(self.events, ["more answers are asked for than a plan has"])

    def test_a_client_that_asks_and_reads_without_end_is_refused(self) -> None:
        """A plan has an end, and so has what a client can have the bridge send."""
        clock, upper = Clock(), Upper()
        shaper = BridgeShaper(clock, upper, Rhythm(SITE, seeded(1)))
        end = HalfWire(Upper(), shaper, 1 << 18)
        for _ in range(40):
            shaper.dataReceived(write_frame(b"", HEAD, 60_000))
            clock.advance(1)
            end.run()
        self.assertTrue(end.server.aborted)
        self.assertLess(sum(map(len, end.server.said)), 1_100_000)

    def test_an_answer_that_is_asked_for_after_the_plan_is_refused(self) -> None:
        """Frames are free then."""
        scene = Scene()
        scene.go(10)
        scene.bridge.dataReceived(write_frame(b"", HEAD, 60_000))
        self.assertTrue(scene.wire.server.aborted)

    def test_frames_that_are_no_frames_are_refused_in_one_line_each(self) -> None:
        """At either end; the upper protocol gets nothing of them, and nothing after them."""
        for wrong, why in (
            (struct.pack("!HHI", 65535, 65535, 0), "a frame has 131078 octets"),
            (struct.pack("!HHI", 0, 0, 2**32 - 1), "an answer of 2147483647 octets"),
            (struct.pack("!HHI", 0, 0, 3), "an answer of 3 octets"),
        ):
            scene = Scene()
            scene.bridge.dataReceived(wrong + b"data")
            scene.bridge.dataReceived(write_frame(b"data", 12))
            self.assertTrue(scene.wire.server.aborted)
            self.assertEqual(scene.there.heard, b"")
            [told] = self.events
            self.assertIn(why, told)
            self.events.clear()
        scene = Scene()
        scene.client.dataReceived(write_frame(b"", HEAD, 60_000))
        self.assertTrue(scene.wire.client.aborted)
        self.assertEqual(self.events, ["the bridge asks for an answer"])

    def test_an_exchange_of_many_pieces_is_asked_for_in_one_record(self) -> None:
        """A frame for each piece, in the planned size."""
        site = Site("", ((Exchange(0.0, 100, (50, 60, 70), 0.0),),))
        clock = Clock()
        chance = seeded(1)
        client = ClientShaper(clock, Half(), Plan(site, chance))
        bridge = BridgeShaper(clock, Half(), Rhythm(site, chance))
        wire = HalfWire(client, bridge, 1 << 18)
        clock.advance(1)
        wire.run()
        clock.advance(1)
        wire.run()
        self.assertEqual([len(each) for each in wire.server.said[:3]], [50, 60, 70])
