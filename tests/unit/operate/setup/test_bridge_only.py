"""Tests of torknock.operate.setup.bridge_only: a tor that would connect directly is refused."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.setup import bridge_only
from torknock.operate.setup.bridge_only import verify_bridged
from torknock.operate.setup.changes import CannotSetUp

_BRIDGE = "Bridge 192.0.2.7:443 4352E58420E68F5E40BF7C74FADDCCD9D1349413\n"


class BridgedTests(SynchronousTestCase):
    """`verify_bridged`, with Debian's tor."""

    def verify(self, torrc: str) -> None:
        path = Path(self.mktemp())
        path.write_text(f"DataDirectory {path.absolute()}.data\n{torrc}")
        verify_bridged(path, None)

    def test_a_torrc_without_bridges_at_its_end_is_refused(self) -> None:
        """What stands last counts."""
        self.verify(f"UseBridges 1\n{_BRIDGE}")
        for torrc in ("", _BRIDGE, f"UseBridges 1\n{_BRIDGE}UseBridges 0\n"):
            with self.subTest(torrc=torrc), self.assertRaisesRegex(CannotSetUp, "connect directly"):
                self.verify(torrc)

    def test_a_torrc_that_cannot_be_checked_is_refused(self) -> None:
        """What cannot be checked is refused."""
        self.patch(bridge_only, "PROGRAMS", "/nonexistent")
        with self.assertRaisesRegex(CannotSetUp, "no command tor"):
            self.verify(f"UseBridges 1\n{_BRIDGE}")
