"""Tests of the privacy of a process that holds secrets."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from torknock.cli import VERBS

EACH = """
import contextlib, ctypes, io, resource, sys
from torknock.cli import main
prctl = ctypes.CDLL(None).prctl
for verb in sys.argv[1:]:
    prctl(4, 1, 0, 0, 0)
    sys.argv = ["torknock", verb, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    print(verb, prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""


class PrivateTests(SynchronousTestCase):
    """PR_SET_DUMPABLE and RLIMIT_CORE; `tests.tornet.test_debian_unit` tries what they are for."""

    def test_every_verb(self) -> None:
        """Before it reads anything: no debugger, no core dump."""
        told = subprocess.run([sys.executable, "-c", EACH, *VERBS], capture_output=True, text=True, check=True)
        self.assertEqual(told.stdout.splitlines(), [f"{verb} 0 0 0" for verb in VERBS])
