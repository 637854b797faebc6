"""Tests of torknock.client.stealth: how a bridge of scheme `knock` is knocked at."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.support.knocks import as_it_is
from torknock.client.attempts import PAUSES
from torknock.client.budget import PORTS, SYNS
from torknock.client.round_errors import BridgeSilent, NotTheBridge, WrongPeer
from torknock.client.rounds import Knocked
from torknock.client.stealth import TIMEOUT, StealthKnocker
from torknock.interfaces import CannotKnock, Dialled, IStampedDialer, Slipped
from torknock.protocol.bridge_line import Channel, Line, Scheme
from torknock.protocol.knock import integrity_code, isn

LINE = Line(secret=bytes(range(32)), pin=None, scheme=Scheme.KNOCK, channel=Channel.RAW)
BRIDGE = ("192.0.2.7", 443)


@implementer(IStampedDialer)
class Dialler:
    """A dialer whose SYNs have the TSvals 1000, 1001, ...; *answers* are what becomes of them, the last of all others.

    None is no answer; True is one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers: list[Exception | bool | None] = [True]
        self.isns: list[int] = []
        self.at: list[float] = []
        self.cancelled = 0

    def dial_stamped(self, host: str, port: int, isn: Callable[[int], int]) -> Deferred[Dialled]:
        tsval = 1000 + len(self.isns)
        self.isns.append(isn(tsval))
        self.at.append(self._clock.seconds())
        result: Deferred[Dialled] = Deferred(self._cancel)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            result.errback(answer)
        elif answer:
            result.callback(Dialled(socket.socket(), self.isns[-1], tsval))
        return result

    def _cancel(self, result: Deferred[Dialled]) -> None:
        self.cancelled += 1


class StealthKnockerTests(SynchronousTestCase):
    """`StealthKnocker`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dialled = Dialler(self.clock)
        self.knocker = StealthKnocker(self.dialled, self.clock, Random(1))  # noqa: S311

    def knock(
        self, seconds: float = 60.0, host: str = BRIDGE[0], knocker: StealthKnocker | None = None
    ) -> Deferred[Knocked]:
        """A knock, *seconds* later."""
        result = (knocker or self.knocker).knock(LINE, host, BRIDGE[1], as_it_is)
        result.addCallback(self._close)
        self.clock.pump([0.0] + [0.1] * int(seconds * 10))
        return result

    def _close(self, knocked: Knocked) -> Knocked:
        knocked.socket.close()
        return knocked

    def test_the_isn_is_that_of_the_address_port_and_tsval(self) -> None:
        """That of the address as it is in the packet, the port, and the TSval that was foreseen."""
        for host, address in (
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
        ):
            tsval = 1000 + len(self.dialled.isns)
            knocked = self.successResultOf(self.knock(0, host))
            self.assertEqual(knocked.isn, isn(LINE.secret, ip_address(address).packed, 443, tsval, None))
            self.assertEqual(self.dialled.isns[-1], knocked.isn)

    def test_the_isn_covers_the_payload(self) -> None:
        """The ISN covers the payload; the bridge is the same, and rests for all."""
        payload = b"the first octets"
        covering = self.knocker.covering(payload)
        knocked = self.successResultOf(self.knock(0, knocker=covering))
        code = integrity_code(LINE.secret, payload)
        self.assertEqual(knocked.isn, isn(LINE.secret, ip_address(BRIDGE[0]).packed, 443, 1000, code))
        self.assertEqual(knocked.isn & 0xFFFF, code)
        self.dialled.answers = [ConnectionRefusedError()]
        self.failureResultOf(self.knock(40, knocker=covering), BridgeSilent)
        dialled = len(self.dialled.isns)
        self.failureResultOf(self.knock(0), BridgeSilent)
        self.assertEqual(len(self.dialled.isns), dialled)

    def test_silence_is_followed_by_another_isn(self) -> None:
        """Given up before the kernel repeats its SYN after a second; then again, with another ISN."""
        self.dialled.answers = [None]
        error = self.failureResultOf(self.knock(40), BridgeSilent).value
        self.assertFalse(error.refused)
        self.assertLess(TIMEOUT, 1.0)
        self.assertEqual(self.dialled.cancelled, PORTS)
        self.assertEqual(len(set(self.dialled.isns)), PORTS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_syn_that_was_lost_is_followed_by_one_that_opens(self) -> None:
        """The next one opens."""
        self.dialled.answers = [None, True]
        self.successResultOf(self.knock(5))
        self.assertEqual(len(self.dialled.isns), 2)

    def test_a_refusal_ends_the_round_after_a_few_syns(self) -> None:
        """A few SYNs with pauses, no more; the reason is told."""
        self.dialled.answers = [ConnectionRefusedError()]
        error = self.failureResultOf(self.knock(40), BridgeSilent).value
        self.assertTrue(error.refused)
        self.assertEqual(len(self.dialled.isns), PORTS)
        for before, after, (least, most) in zip(self.dialled.at, self.dialled.at[1:], PAUSES[1:], strict=False):
            self.assertTrue(least <= after - before <= most + 0.1)

    def test_syns_to_a_bridge_that_refuses_are_bounded(self) -> None:
        """Tor asks again every second: in no two minutes more than 3 SYNs, or 11 if this host spoils them."""
        for answer, most in ((ConnectionRefusedError(), PORTS), (None, PORTS), (Slipped(), SYNS)):
            self.setUp()
            self.dialled.answers = [answer]
            for _ in range(300):
                self.knock(1).addErrback(lambda failure: failure.trap(BridgeSilent))
            for start in self.dialled.at:
                self.assertLessEqual(sum(start <= at < start + 120 for at in self.dialled.at), most)
            self.assertGreater(len(self.dialled.at), most)
            self.dialled.answers = [True]
            self.clock.pump([1.0] * 200)
            self.successResultOf(self.knock(0))
            self.successResultOf(self.knock(0))

    def test_another_peer_is_tried_again_as_after_a_rst(self) -> None:
        """The next SYN is tried, as after a RST, and both possibilities are said."""

        async def opened(knocked: Knocked) -> Knocked:
            knocked.socket.close()
            raise WrongPeer("it reset the connection at once")

        result = self.knocker.knock(LINE, *BRIDGE, opened)
        self.clock.pump([0.1] * 400)
        self.assertIn("intercepted", str(self.failureResultOf(result, NotTheBridge).value))
        self.assertEqual(len(self.dialled.isns), PORTS)

    def test_a_tsval_that_was_missed_is_dialled_again(self) -> None:
        """Dialled again at once, while SYNs are left; then the round has failed."""
        self.dialled.answers = [*[Slipped()] * (SYNS - 1), True]
        self.successResultOf(self.knock(0))
        self.assertEqual(self.dialled.at, [0.0] * SYNS)
        self.dialled.answers = [Slipped()]
        self.assertIn("too late", str(self.failureResultOf(self.knock(0), BridgeSilent).value))
        self.assertEqual(len(self.dialled.isns), 2 * SYNS)

    def test_a_source_port_that_was_taken_is_replaced(self) -> None:
        """Somebody else was quicker: another is asked for."""
        self.dialled.answers = [CannotKnock("", errno.EADDRNOTAVAIL), True]
        self.successResultOf(self.knock(0))

    def test_what_this_host_cannot_do_is_not_counted_against_the_bridge(self) -> None:
        """What this host cannot do is told at once, and does not count against the bridge."""
        self.dialled.answers = [CannotKnock("", errno.EPERM), True]
        self.failureResultOf(self.knock(0), CannotKnock)
        self.successResultOf(self.knock(0))
        self.failureResultOf(self.knock(0, "bridge.example"), CannotKnock)

    def test_an_unreachable_host_ends_the_round(self) -> None:
        """A router that says so ends the round."""
        self.dialled.answers = [ConnectError(errno.EHOSTUNREACH)]
        self.failureResultOf(self.knock(0), ConnectError)
        self.failureResultOf(self.knock(0), BridgeSilent)
        self.assertEqual(len(self.dialled.isns), 1)
