"""Tests of `torknock.operate.doors`: the access list as a set-up writes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.gate.access import EVERYWHERE, Entry, parse
from torknock.gate.ruleset import Posture
from torknock.operate.doors import door_of, with_door

DOOR = Entry(EVERYWHERE, 443, Posture.FILTERED, "debian-tor")


class ListTests(SynchronousTestCase):
    """What is written, and what stays."""

    @given(st.lists(st.tuples(st.integers(1, 65535), st.sampled_from(Posture)), min_size=1))
    def test_a_set_up_has_one_door(self, wishes: list[tuple[int, Posture]]) -> None:
        """The last that was wished for, however often it is run; a second time it changes nothing."""
        text = "# by hand\n"
        for port, posture in wishes:
            door = Entry(EVERYWHERE, port, posture, "debian-tor")
            text = with_door(text, door)
            self.assertEqual(parse(text), (door,))
            self.assertEqual(with_door(text, door), text)
        self.assertTrue(text.startswith("# by hand\n"))

    def test_what_others_have_stays(self) -> None:
        """Another tor's door, and one that root has added by hand, for the same user too."""
        by_hand = Entry("192.0.2.7", 8443, Posture.DECOY, "debian-tor")
        second = Entry(EVERYWHERE, 9443, Posture.CLOSED, "_tor-second")
        text = with_door(with_door(str(by_hand), second), DOOR)
        moved = Entry(EVERYWHERE, 444, Posture.CLOSED, "debian-tor")
        self.assertEqual(parse(with_door(text, moved)), (by_hand, second, moved))

    def test_the_door_of_torrc(self) -> None:
        """Its port and posture, as the transport takes them."""
        options = "ServerTransportListenAddr torknock {}\nServerTransportOptions torknock {}\n"
        self.assertEqual(door_of(options.format("0.0.0.0:443", "posture=filtered"), "debian-tor"), DOOR)
        self.assertEqual(door_of(options.format("[::]:443", "metrics=/m posture=filtered"), "debian-tor"), DOOR)
        closed = Entry("192.0.2.7", 443, Posture.CLOSED, "debian-tor")
        self.assertEqual(door_of(options.format("192.0.2.7:443", ""), "debian-tor"), closed)
        for listen, posture in (("", ""), ("nonsense", ""), (f"{EVERYWHERE}:443", "posture=open")):
            self.assertIsNone(door_of(options.format(listen, posture), "debian-tor"))
