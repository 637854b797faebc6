"""Tests of what a process with CAP_NET_ADMIN loads: `torknock gate` and `torknock dial`, as they are started."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.loaded import HEAVY, MAY_LOAD, PACKAGES, ours, packages, recording
from torknock.service.process import LACKS_CAPABILITY

ROOT = Path(__file__).parent.parent.parent.parent

UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []


class LoadedTests(SynchronousTestCase):
    """A service that lacks the capability ends once all of it is loaded, so no root is needed to see what that is."""

    def loaded_by(self, verb: str) -> Path:
        """The file that names what `torknock` *verb* has loaded."""
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        path = directory / "loaded"
        done = subprocess.run(
            [*UNPRIVILEGED, *recording(path), verb, "--socket", str(directory / "socket")],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertIn(LACKS_CAPABILITY, done.stderr)
        return path

    def test_a_privileged_service_loads_what_is_listed_and_nothing_else(self) -> None:
        """An auditor of CAP_NET_ADMIN has these modules to read; each one more is a decision."""
        for verb, may_load in MAY_LOAD.items():
            path = self.loaded_by(verb)
            self.assertEqual(sorted(ours(path)), sorted(may_load), verb)
            self.assertEqual(packages(path) - PACKAGES, set(), verb)

    def test_heavy_packages_are_told_apart(self) -> None:
        """What the test before looks for is what is installed here and could be loaded."""
        path = Path(self.mktemp())
        path.write_text(" ".join(["os", "asyncio.events", "torknock.cli", "twisted.web", *sorted(HEAVY)]))
        self.assertEqual(packages(path), {"twisted", *HEAVY})
