"""Tests of `torknock.operate.doctor.torrc_file`: what Debian's torrc on the disk would have tor do next."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.doctor.torrc_file import held, included
from torknock.operate.finding import State
from torknock.operate.sides import Side


class TorrcFileTests(SynchronousTestCase):
    """A torrc, torknock's part of it, and the drop-in that has tor wait for that."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        self.torrc, self.snippet, self.hold = directory / "torrc", directory / "torknock.conf", directory / "hold.conf"
        self.torrc.write_text("SocksPort 9050\n")

    def test_nothing_is_said_where_nothing_was_set_up(self) -> None:
        """Neither of a file that is not there, nor of a tor that nothing holds."""
        self.assertEqual(included(Side.CLIENT, self.torrc, self.snippet), [])
        self.assertIsNone(held(None, self.hold, self.torrc, self.snippet))

    def test_a_part_that_torrc_does_not_include_is_found(self) -> None:
        """Before tor reads torrc again, and connects directly; a comment is no include."""
        self.snippet.write_text("UseBridges 1\n")
        for line in ("", f"#%include {self.snippet}\n", f"%include {self.snippet}.old\n"):
            self.torrc.write_text(f"SocksPort 9050\n{line}")
            [found] = included(Side.CLIENT, self.torrc, self.snippet)
            self.assertEqual(found.state, State.NOT_OK, line)
            self.assertIn("connects to the Tor network directly", found.why)
            self.assertEqual(found.remedy, "as root: torknock setup client - < line.txt")
        self.torrc.write_text(f"%include {self.snippet.parent}/*.conf\n")
        self.assertEqual([each.state for each in included(Side.CLIENT, self.torrc, self.snippet)], [State.OK])

    def test_a_tor_that_systemd_does_not_start_is_not_to_be_started(self) -> None:
        """What torrc lacks is said instead, and how to let tor connect directly."""
        self.hold.write_text("[Service]\n")
        for role, command in (
            (Side.BRIDGE, "setup bridge"),
            (Side.CLIENT, "setup client"),
            (None, "or torknock setup client"),
        ):
            found = held(role, self.hold, self.torrc, self.snippet)
            assert found is not None
            self.assertEqual((found.name, found.state), ("tor", State.NOT_OK))
            self.assertIn(f"before {self.torrc} includes {self.snippet}", found.why)
            self.assertIn(command, found.remedy)
            self.assertIn("--undo --direct", found.remedy)
            self.assertNotIn("systemctl start", found.remedy)

    def test_a_tor_that_is_set_up_may_be_started(self) -> None:
        """Though the drop-in is there."""
        self.hold.write_text("[Service]\n")
        self.snippet.write_text("UseBridges 1\n")
        self.torrc.write_text(f"%include {self.snippet}\n")
        found = held(Side.CLIENT, self.hold, self.torrc, self.snippet)
        assert found is not None
        self.assertIn("systemctl start tor@default", found.remedy)
