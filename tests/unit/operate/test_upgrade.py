"""Tests of a set-up on a host where version 0.1.0 was set up, or its units were put there by hand."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.setup import daemons, place, planned_changes, shipped_files
from torknock.operate.setup.account_changes import User
from torknock.operate.setup.changes import CannotChange, Change, Reader
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.place import Place
from torknock.operate.setup.record import Record
from torknock.operate.setup.service_changes import Unit
from torknock.operate.setup.this_host import Host
from torknock.operate.sides import Side

ROOT = Path(__file__).parents[3]
FIRST = ROOT / "tests" / "data" / "0.1.0"
UNITS = ("torknock-gate.service", "torknock-gate.socket")
FIRST_TOR = Place(Path("/etc/tor/torrc"), "")
HOST = Host(FIRST_TOR, "debian-tor", Path("/usr/local/bin/torknock"), systemd=True, apparmor=False)


class Case(SynchronousTestCase):
    """With a directory in the place of systemd's."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.patch(shipped_files, "UNITS", self.directory)
        self.patch(place, "SNIPPET", self.directory / "torknock.conf")

    def planned(self, host: Host = HOST) -> dict[str, Change]:
        """What is to be changed, by its name."""
        changes = planned_changes.plan(Side.BRIDGE, "BridgeRelay 1\n", host, 0)
        return {Path(change.key[0]).name: change for change in changes}

    def unit(self, name: str) -> File:
        change = self.planned()[name]
        assert isinstance(change, File)
        return change


class UnitsTests(Case):
    """Units that are there already."""

    def test_what_an_earlier_version_wrote(self) -> None:
        """It is replaced, whether a record knows of it or not; systemd reads it again, and starts it again."""
        for name in UNITS:
            shutil.copy(FIRST / name, self.directory)
        service = self.unit("torknock-gate.service")
        service.inspect([])
        self.assertEqual(service.before, (FIRST / service.key[0].rpartition("/")[2]).read_text())
        self.assertEqual(service.reader, Reader.SYSTEMD)
        self.assertTrue(any(isinstance(change, Unit) for change in planned_changes.plan(Side.BRIDGE, "", HOST, 0)))

    def test_for_another_program_and_user(self) -> None:
        """What was put in for them is taken out before it is compared."""
        host = Host(HOST.place, "tor", Path("/opt/torknock/bin/torknock"), systemd=True, apparmor=False)
        text = (FIRST / "torknock-gate.service").read_text().replace("debian-tor", "tor")
        (self.directory / "torknock-gate.service").write_text(text.replace("/usr/local/bin/", "/opt/torknock/bin/"))
        change = self.planned(host)["torknock-gate.service"]
        change.inspect([])

    def test_what_a_person_has_changed(self) -> None:
        """It stays, and the set-up is refused."""
        (self.directory / "torknock-gate.service").write_text(
            (FIRST / "torknock-gate.service").read_text() + "Nice=1\n"
        )
        self.assertRaises(CannotChange, self.unit("torknock-gate.service").inspect, [])

    def test_every_unit_will_be_known(self) -> None:
        """The next version must recognise what this one writes."""
        known = (ROOT / "contrib" / "systemd" / "earlier").read_text().splitlines()
        for unit in sorted((ROOT / "contrib" / "systemd").glob("torknock-*.*")):
            line = f"{hashlib.sha256(unit.read_bytes()).hexdigest()}  {unit.name}"
            self.assertIn(line, known, "a unit was changed: add this line to contrib/systemd/earlier")


class RecordTests(Case):
    """What 0.1.0 has written down."""

    def test_the_record_of_0_1_0_is_read(self) -> None:
        """Each file with who must read it again; a text that 0.1.0 wrote before is not given back."""
        shutil.copy(FIRST / "setup.json", self.directory)
        changes = Record(self.directory / "setup.json").changes()
        self.assertEqual([type(change) for change in changes], [User, File, File, Unit, File, Block])
        readers = [change.reader for change in changes if isinstance(change, (File, Block))]
        self.assertEqual(readers, [Reader.SYSTEMD, Reader.SYSTEMD, Reader.TOR, Reader.TOR])
        self.assertEqual([change.before for change in changes if isinstance(change, File)], [None] * 3)

    def test_the_record_of_0_1_0_is_continued(self) -> None:
        """A unit that is replaced now is still one that was not there before."""
        record = Record(self.directory / "setup.json")
        text = (FIRST / "setup.json").read_text().replace("/etc/systemd/system", str(self.directory))
        (self.directory / "setup.json").write_text(text)
        for name in UNITS:
            shutil.copy(FIRST / name, self.directory)
        replaced = File(str(self.directory / UNITS[0]), "[Unit]\n")
        with record.locked(), record.making([replaced]):
            pass
        kept = next(change for change in record.changes() if change.key == replaced.key)
        assert isinstance(kept, File)
        self.assertEqual((kept.before, kept.text), (None, "[Unit]\n"))
        self.assertEqual(len(record.changes()), 6)


class OutdatedTests(SynchronousTestCase):
    """Processes that began before what is installed."""

    def test_a_process_that_began_before_the_installation_is_outdated(self) -> None:
        """Only one of torknock's, as its command line says."""
        self.patch(daemons, "_is_ours", lambda _pid: True)
        for installed, outdated in ((0.0, False), (2.0**40, True)):
            self.patch(daemons, "_installed_at", lambda installed=installed: installed)
            self.assertEqual(daemons.is_outdated(os.getpid()), outdated)
        self.assertFalse(daemons.is_outdated(2**22 + 1))
        self.patch(daemons, "_is_ours", lambda _pid: False)
        self.assertFalse(daemons.is_outdated(os.getpid()))

    def test_a_process_is_known_by_its_arguments(self) -> None:
        """A service that was told something else is another one."""
        process = subprocess.Popen(["sleep", "--", "60"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep"):
            time.sleep(0.01)  # the kernel has not finished exec
        self.assertTrue(daemons.has_arguments(process.pid, ["--", "60"]))
        self.assertFalse(daemons.has_arguments(process.pid, ["--", "6"]))
