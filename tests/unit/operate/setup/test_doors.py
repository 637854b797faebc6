"""Tests of `torknock.operate.setup.doors`: the access list as a set-up writes it."""

from __future__ import annotations

import grp
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.setup import doors
from torknock.operate.setup.doors import ListedDoor, door_of
from torknock.protocol.door import Posture
from torknock.service.access import EVERYWHERE, AccessDenied, Entry, parse

DOOR = Entry(EVERYWHERE, 443, Posture.FILTERED, "debian-tor")


class ListTests(SynchronousTestCase):
    """What is written, and what stays."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        self.access, self.filtered = directory / "torknock" / "gate.toml", directory / "torknock" / "filtered.nft"
        self.patch(doors, "ACCESS", self.access)
        self.patch(doors, "FILTERED", self.filtered)

    def door(self, entry: Entry, owner: str = "debian-tor") -> ListedDoor:
        group = grp.getgrgid(os.getgid()).gr_name
        return ListedDoor(entry.address, entry.port, entry.posture.value, entry.user, owner, group)

    def put(self, entry: Entry, owner: str = "debian-tor") -> ListedDoor:
        """List the door of *entry*, as a set-up does."""
        door = self.door(entry, owner)
        if door.is_needed():
            door.inspect([])
            door.make()
        self.assertFalse(self.door(entry, owner).is_needed())
        return door

    def listed(self) -> tuple[Entry, ...]:
        return parse(self.access.read_text())

    @given(st.lists(st.tuples(st.integers(1, 65535), st.sampled_from(Posture)), min_size=1))
    @settings(max_examples=25)
    def test_a_set_up_has_one_door(self, wishes: list[tuple[int, Posture]]) -> None:
        """The last that was wished for, however often it is run; the undo of each gives back what was before it."""
        shutil.rmtree(self.access.parent, ignore_errors=True)
        texts, made = [], []
        for port, posture in [wish for wish, former in zip(wishes, [None, *wishes], strict=False) if wish != former]:
            texts.append(self.access.read_text() if self.access.exists() else None)
            door = Entry(EVERYWHERE, port, posture, "debian-tor")
            made.append(self.put(door))
            self.assertEqual(self.listed(), (door,))
            self.assertEqual(self.filtered.exists(), posture is Posture.FILTERED)
        for door_change, before in zip(reversed(made), reversed(texts), strict=True):
            door_change.undo()
            self.assertEqual(self.access.read_text() if self.access.exists() else None, before)
        self.assertFalse(self.access.parent.exists())

    def test_doors_of_other_tors_stay(self) -> None:
        """Another tor's door, also of the same user, and one that root has added by hand, octet for octet."""
        by_hand = Entry("192.0.2.7", 8443, Posture.DECOY, "debian-tor")
        second = Entry(EVERYWHERE, 9443, Posture.FILTERED, "debian-tor")
        self.access.parent.mkdir()
        self.access.write_text(f"# mine\n{by_hand}")
        own = self.put(DOOR)
        between = self.access.read_text()
        other = self.put(second, "debian-tor, /etc/tor/instances/b/torrc")
        self.assertEqual(self.listed(), (by_hand, DOOR, second))
        own.undo()
        self.assertEqual(self.listed(), (by_hand, second))
        self.assertIn("9443", self.filtered.read_text())
        other.undo()
        self.assertEqual(self.access.read_text(), f"# mine\n{by_hand}")
        self.assertFalse(self.filtered.exists())
        self.put(DOOR)
        self.assertEqual(self.access.read_text(), between)

    def test_a_port_that_is_listed_for_another_tor_is_refused(self) -> None:
        """It is refused before anything is written; so is one that root has listed by hand."""
        self.put(DOOR)
        before = self.access.read_text()
        for address in (EVERYWHERE, "192.0.2.7"):
            entry = Entry(address, 443, Posture.CLOSED, "_tor-b")
            error = self.assertRaises(AccessDenied, self.door(entry, "_tor-b").inspect, [])
            self.assertIn("name another port", str(error))
        self.assertEqual(self.access.read_text(), before)

    def test_a_directory_that_others_can_write_is_refused(self) -> None:
        """It is refused before anything is written."""
        self.access.parent.mkdir()
        self.access.parent.chmod(0o777)
        with self.assertRaisesRegex(AccessDenied, f"^{self.access.parent} can be written by others than root"):
            self.door(DOOR).inspect([])
        self.assertFalse(self.access.exists())

    def test_a_list_that_was_broken_since(self) -> None:
        """It stays, and is said."""
        door = self.put(DOOR)
        self.access.write_text("nonsense" + self.access.read_text())
        before = self.access.read_text()
        self.assertIn("stays listed", door.undo())
        self.assertEqual(self.access.read_text(), before)

    def test_the_door_in_torrc_is_read_as_the_transport_reads_it(self) -> None:
        """Its port and posture, as the transport takes them."""
        options = "ServerTransportListenAddr torknock {}\nServerTransportOptions torknock {}\n"
        self.assertEqual(door_of(options.format("0.0.0.0:443", "posture=filtered"), "debian-tor"), DOOR)
        self.assertEqual(door_of(options.format("[::]:443", "metrics=/m posture=filtered"), "debian-tor"), DOOR)
        closed = Entry("192.0.2.7", 443, Posture.CLOSED, "debian-tor")
        self.assertEqual(door_of(options.format("192.0.2.7:443", ""), "debian-tor"), closed)
        for listen, posture in (("", ""), ("nonsense", ""), (f"{EVERYWHERE}:443", "posture=open")):
            self.assertIsNone(door_of(options.format(listen, posture), "debian-tor"))
