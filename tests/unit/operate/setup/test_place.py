"""Tests of which names on a host belong to which tor."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.setup import place, planned_changes
from torknock.operate.setup.account_changes import User
from torknock.operate.setup.changes import CannotSetUp, Change, Reader
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.place import SNIPPET, Place
from torknock.operate.setup.record import Record
from torknock.operate.setup.service_changes import Unit
from torknock.operate.setup.this_host import Host
from torknock.operate.sides import Side

DEBIANS, INSTANCE = Path("/etc/tor/torrc"), Path("/etc/tor/instances/b/torrc")
PROGRAM = Path("/usr/local/bin/torknock")
OPTIONS = "ServerTransportListenAddr torknock 0.0.0.0:8443\nServerTransportOptions torknock posture=closed\n"


class Case(SynchronousTestCase):
    """With a directory for records."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.patch(place, "RECORD", self.directory / "lib" / "setup.json")

    def record(self, *changes: Change) -> None:
        """Have *changes* made for the first tor."""
        record = Record(place.RECORD)
        with record.locked():
            record._write(list(changes))


class NameTests(Case):
    """Each tor has names of its own."""

    def test_the_first_tor_has_the_names_without_an_addition(self) -> None:
        """Debian's, with the names that all versions have; another, if an earlier version has set that one up."""
        first = Place.of(DEBIANS)
        self.assertEqual((first.name, first.snippet, first.socket("gate")), ("", SNIPPET, "/run/torknock/gate.sock"))
        self.assertEqual((first.helper("gate"), first.owner("debian-tor")), ("", "debian-tor"))
        elsewhere = Path("/srv/tor/torrc")
        self.record(File(str(SNIPPET), "x\n", reader=Reader.TOR), Block(str(elsewhere), "y\n", Reader.TOR))
        self.assertEqual(Place.of(elsewhere).snippet, SNIPPET)
        self.assertNotEqual(Place.of(DEBIANS).snippet, SNIPPET)

    def test_no_name_is_another_tors(self) -> None:
        """No name is another tor's, whatever is alike about them."""
        torrcs = (DEBIANS, INSTANCE, "/etc/tor/instances/c/torrc", "/etc/tor/torrc2", "/srv/tor/torrc")
        places = [Place.of(Path(torrc)) for torrc in torrcs]
        self.assertEqual(places[1].name, "b")
        for named in (
            [each.snippet for each in places], [each.record._path for each in places],
            [each.socket("gate") for each in places], [each.socket("dial") for each in places],
            [each.owner("debian-tor") for each in places],
        ):  # fmt: skip
            self.assertEqual(len(set(named)), len(places), named)


class PlanTests(Case):
    """What is to be changed for a second tor."""

    def planned(self, side: Side) -> list[Change]:
        host = Host(Place(INSTANCE, "b"), "_tor-b", PROGRAM, systemd=True, apparmor=False)
        return planned_changes.plan(side, OPTIONS, host, 0)

    def test_another_tor_has_units_of_its_own(self) -> None:
        """Its own, which refer to each other and to its own socket and user."""
        for side, service in ((Side.BRIDGE, "gate"), (Side.CLIENT, "dial")):
            changes = self.planned(side)
            units = {Path(each.path).name: each.text for each in changes if isinstance(each, File)}
            self.assertIn(f"Requires=torknock-{service}-b.socket\n", units[f"torknock-{service}-b.service"])
            self.assertIn(f"ListenStream=/run/torknock/{service}-b.sock\n", units[f"torknock-{service}-b.socket"])
            started = [each.name for each in changes if isinstance(each, Unit)]
            self.assertEqual(started, [f"torknock-{service}-b.socket"])
            self.assertNotIn("debian-tor", "".join(units.values()))
            for text in units.values():
                self.assertNotRegex(text, rf"torknock-{service}\.")

    def test_its_transport_asks_its_own_service(self) -> None:
        """And its torrc includes its own snippet."""
        changes = self.planned(Side.BRIDGE)
        [block] = [each for each in changes if isinstance(each, Block)]
        self.assertEqual((block.path, block.text), (str(INSTANCE), "%include /etc/tor/instances/b/torknock-b.conf\n"))

    def test_a_torrc_that_includes_another_tors_snippet(self) -> None:
        """It would get the other's bridge: it is refused."""
        torrc = self.directory / "torrc"
        torrc.write_text("%include /etc/tor/torrc.d/*.conf\n")
        host = Host(Place(torrc, "torrc-1"), "_tor-b", PROGRAM, systemd=True, apparmor=False)
        error = self.assertRaises(CannotSetUp, planned_changes.plan, Side.CLIENT, "UseBridges 1\n", host, 0)
        self.assertIn("another tor's", str(error))


class SharedTests(Case):
    """What both tors need is the second's when the first is taken back."""

    def test_what_both_tors_need_passes_to_the_other_record(self) -> None:
        """The user stays, and is in the other record; the undo of that removes it."""
        own, theirs = self.directory / "own", self.directory / "theirs"
        first, second = Record(place.RECORD), Record(place.RECORD.with_name("setup-b.json"))
        user = User("torknock-nobody-has-this-name")  # which an undo finds gone
        with first.locked(), first.making([File(str(own), "a\n")]):
            first._write([user])
        first._write([user, File(str(own), "a\n")])
        with second.locked(), second.making([File(str(theirs), "b\n")]):
            pass
        self.assertEqual(list(first.undo()), [])
        self.assertFalse(own.exists())
        self.assertTrue(theirs.exists())
        told = json.loads((place.RECORD.with_name("setup-b.json")).read_text())["changes"]
        self.assertEqual([each["kind"] for each in told], ["User", "File"])
        self.assertEqual((list(second.undo()), list((self.directory / "lib").iterdir())), ([], []))
        self.assertFalse(theirs.exists())
