"""Tests of torknock.operate.doctor.tls_hello."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.doctor.tls_hello import judge, tls_hello
from torknock.operate.finding import State

ROOT = Path(__file__).parents[3]
OCTOBER = datetime.date(2026, 10, 1)


class TLSHelloTests(SynchronousTestCase):
    """What `torknock doctor client` says of the hello."""

    def test_a_recent_browsers_is_ok(self) -> None:
        """For six months after its release."""
        for today in (OCTOBER, datetime.date(2027, 4, 1)):
            finding = judge(None, OCTOBER, today)
            self.assertEqual((finding.state, finding.why), (State.OK, "it is that of a browser of October 2026"))

    def test_an_old_one_is_not(self) -> None:
        """Few browsers still look like it."""
        finding = judge(None, OCTOBER, datetime.date(2027, 4, 3))
        self.assertIs(finding.state, State.NOT_OK)
        self.assertIn("October 2026", finding.why)
        self.assertIn("upgrade torknock", finding.remedy)

    def test_an_unknown_date_is_no_fault(self) -> None:
        """A version that does not tell its month."""
        self.assertIs(judge(None, None, OCTOBER).state, State.OK)

    def test_this_installation(self) -> None:
        """It has a browser's hello, whose age depends on the date."""
        released = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).timestamp()
        self.assertIs(tls_hello(released).state, State.OK)
        self.assertIs(tls_hello(released + 10 * 365 * 86_400).state, State.NOT_OK)

    def test_an_installation_without_the_package(self) -> None:
        """It says what tor's log says: the hello can be recognised."""
        program = (
            "import sys\nsys.modules['utls'] = None\n"
            "from torknock.operate.doctor.tls_hello import tls_hello\n"
            "found = tls_hello(float(sys.argv[1]))\n"
            "print(found.state.value, found.why, found.remedy, sep=chr(10))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(time.time())], capture_output=True, text=True, check=False, cwd=ROOT
        )
        state, why, remedy = done.stdout.splitlines()
        self.assertEqual((state, remedy), ("not ok", "run contrib/install"), done.stderr)
        self.assertIn("this TLS hello can be recognised", why)
        self.assertIn("utls is not installed", why)
