"""Tests of the weekly tier, so that it runs when its time comes: each part and each parser, for a moment."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contrib.weekly import __main__ as weekly
from contrib.weekly.altered import altered
from contrib.weekly.target import Fault, Target
from contrib.weekly.targets import TARGETS
from torknock.channel import tls_server
from torknock.errors import TorknockError

ROOT = Path(__file__).parents[2]
_INPUTS = 12


class TargetTests(SynchronousTestCase):
    """What is fuzzed."""

    def setUp(self) -> None:
        self.patch(tls_server, "sends_tickets", lambda context: False)  # trial has loaded OpenSSL already

    def test_each_parser(self) -> None:
        """It copes with its seeds, and with some inputs that are like them."""
        chance = random.Random(7)  # noqa: S311  the same inputs each time
        for target in TARGETS.values():
            self.assertTrue(target.seeds, target.name)
            for number in range(_INPUTS):
                octets = bytearray(target.seeds[number % len(target.seeds)])
                if number >= len(target.seeds) and octets:
                    octets[chance.randrange(len(octets))] = chance.randrange(256)
                target.check(bytes(octets))

    def test_a_fault_is_found(self) -> None:
        """Other exceptions, and messages of more than a line, are faults; what is allowed is none."""

        def parser(octets: bytes) -> None:
            raise (TorknockError if octets else ValueError)(octets.decode())

        target = Target("some", parser, (TorknockError,), ())
        target.check(b"a line")
        self.assertRaises(Fault, target.check, b"a\nb")
        self.assertRaises(ValueError, target.check, b"")

    def test_what_takes_too_long(self) -> None:
        """It is a fault."""
        self.patch(sys.modules[Target.__module__], "SECONDS_AN_INPUT", -1.0)
        self.assertRaises(Fault, Target("some", bytes, (), ()).check, b"")

    def test_values_are_altered(self) -> None:
        """By every input, into JSON; the value itself stays."""
        value = {"a": [1, {"b": "c"}]}
        self.assertEqual(altered(value, b""), value)
        others = [altered(value, bytes([0, place, choice])) for place in range(5) for choice in range(0, 256, 5)]
        self.assertGreater(sum(other != value for other in others), 200)
        self.assertEqual(value, {"a": [1, {"b": "c"}]})


class CommandTests(SynchronousTestCase):
    """`contrib/weekly/run`."""

    def test_each_part_is_there(self) -> None:
        """It has figures for any number of minutes."""
        for name in weekly.PARTS:
            self.assertIsInstance(weekly.figures(name, 1.0, None), Iterator)
        self.assertEqual({*weekly.PARTS} - {"fuzz", "mutation"}, {*weekly._SINGLE})

    def test_the_command(self) -> None:
        """It lists everything, and refuses what it does not know."""
        self.assertEqual(subprocess.run(["bash", "-n", ROOT / "contrib" / "weekly" / "run"], check=False).returncode, 0)
        listed = self.run_("--list")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        for name in (*weekly.PARTS, *TARGETS):
            self.assertIn(name, listed.stdout)
        refused = self.run_("nonsense")
        self.assertEqual((refused.returncode, "nonsense: see --list" in refused.stderr), (2, True))

    def run_(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "contrib.weekly", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
