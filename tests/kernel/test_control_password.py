"""Tests of what a person is told whose password tor's control port refuses."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.netns import Lab
from tests.support.tornet import Tor
from torknock.tor.inspect import TorUnreachable, ask_tor

RIGHT, WRONG = "open sesame", "open says me"
OFFLINE = "DisableNetwork 1\nSocksPort 0\n"


class PasswordTests(SynchronousTestCase):
    """A tor that asks for one."""

    skip = None if os.geteuid() == 0 else "network namespaces need root"
    timeout = 60

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        hashed = subprocess.run(["tor", "--hash-password", RIGHT], capture_output=True, text=True, check=True).stdout
        directory = Path(temporary.name) / "tor"
        host = lab.host("bridge")
        Tor("asks", host, directory, f"{OFFLINE}HashedControlPassword {hashed.split()[-1]}\n")
        self.control = str(directory / "control")
        self.assertTrue(wait_for(Path(self.control).exists))

    def test_what_was_given_is_said(self) -> None:
        """None, a wrong one, the right one; and never the password itself."""
        refused = [str(self.assertRaises(TorUnreachable, ask_tor, self.control, each)) for each in (None, WRONG)]
        self.assertIn("--password", refused[0])
        self.assertIn("refuses the password", refused[1])
        self.assertNotIn("not given", refused[1])
        self.assertNotIn(WRONG, refused[1])
        self.assertGreater(ask_tor(self.control, RIGHT).version, (0, 4))
