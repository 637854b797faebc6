"""Tests of torknock.channel.hello: whose ClientHello it is, in processes with and without the package `utls`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.mdwe import MDWE, why_not
from torknock.channel.configuration import OPENSSL_CONF

ROOT = Path(__file__).parents[3]

_CLIENT = """
import random, sys
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import FilteringLogObserver, LogLevel, LogLevelFilterPredicate
from twisted.logger import globalLogBeginner, textFileLogObserver
warnings = FilteringLogObserver(textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(LogLevel.warn)])
globalLogBeginner.beginLoggingTo([warnings], redirectStandardIO=False)
from tests.support.ja4 import client_hello
from tests.unit.channel import peer
from tests.unit.channel.wire import Wire, accepted
from torknock.channel import tls_server
from torknock.channel.hello import usual_hello
from torknock.channel.tls_client import ClientTLS
from torknock.protocol.bridge_line import Line
line = Line(b"s" * 32, peer.PIN, sni="a.example")
client = ClientTLS(Clock(), random.SystemRandom(), usual_hello(random.SystemRandom().shuffle))
server = tls_server.ServerTLS(Clock(), peer.PRIVATE_KEY, random.SystemRandom())
for _ in range(3):
    proved = []
    lower, opened = client.open(line, 1, "192.0.2.7", Protocol())
    accepting, whose = server.accept([line], 1, Protocol())
    whose.addCallback(proved.append)
    wire = Wire(lower, accepting)
    wire.run()
    print(client_hello(wire.client.said[0]).ja4(), proved)
"""
"""A client as `torknock client` makes it, at a bridge of ours: three hellos, and which line each has proved."""

_WITHOUT = """
import sys
sys.modules["utls"] = None  # what Python itself does for a package that cannot be imported
"""


class UsualHelloTests(SynchronousTestCase):
    """What a client says first."""

    def run_client(self, before: str = "", within: Sequence[str] = ()) -> tuple[list[str], str]:
        """The lines that the client prints, and its warnings; *before* is run first, and all of it by *within*."""
        done = subprocess.run(
            [*within, sys.executable, "-c", before + _CLIENT],
            capture_output=True, text=True, check=False, cwd=ROOT, env={"OPENSSL_CONF": str(OPENSSL_CONF)},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.splitlines(), done.stderr

    def test_a_browsers(self) -> None:
        """Where `utls` is installed, and then there is nothing to warn of."""
        lines, warnings = self.run_client()
        self.assertEqual(lines, ["t13d1517h2_8daaf6152771_cb7bf5808d99 [0]"] * 3)
        self.assertEqual(warnings, "")

    def test_openssls(self) -> None:
        """Without it: the bridge is reached all the same, and one warning says that an observer can tell."""
        lines, warnings = self.run_client(_WITHOUT)
        self.assertEqual({line.partition(" ")[2] for line in lines}, {"[0]"})
        self.assertNotIn("t13d1517h2", " ".join(lines))
        self.assertEqual(warnings.count("this TLS hello can be recognised"), 1, warnings)
        self.assertEqual(warnings.count("\n"), 1, warnings)
        self.assertIn("the Python package utls is not installed", warnings)


class NoExecutableMemoryTests(UsualHelloTests):
    """The same where no memory is writable and executable, as in hardened units."""

    skip = why_not()

    def run_client(self, before: str = "", within: Sequence[str] = MDWE) -> tuple[list[str], str]:
        return super().run_client(before, within)
