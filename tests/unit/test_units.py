"""Tests of contrib/systemd: the units are sound, leave the services one capability, and that is enough."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from torknock.cli import torknock
from torknock.operate.setup.doors import FILTERED
from torknock.service import DIAL_SOCKET, GATE_SOCKET, doors
from torknock.service.access import ACCESS

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"
SOCKETS = {"gate": GATE_SOCKET, "dial": DIAL_SOCKET}
SERVICES = (*SOCKETS, "filtered")
PROGRAM = "/usr/local/bin/torknock"
EXPOSURE = 15
"""Tenths, at most."""

_analyze = shutil.which("systemd-analyze")


def directives(unit: str) -> dict[str, list[str]]:
    """What *unit* says, by name."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        name, given, value = line.partition("=")
        if given:
            found.setdefault(name, []).append(value)
    return found


class UnitTests(SynchronousTestCase):
    """The units of both services."""

    skip = None if _analyze else "systemd-analyze is missing; apt-get install systemd"

    def analyzed(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert _analyze is not None
        return subprocess.run([_analyze, *arguments], capture_output=True, text=True, check=False)

    def test_verify(self) -> None:
        """systemd has nothing to say about them, once the program is there."""
        directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, directory)
        for unit in UNITS.glob("torknock-*.*"):
            (directory / unit.name).write_text(unit.read_text().replace(PROGRAM, sys.executable))
        units = sorted(str(unit) for unit in directory.iterdir())
        self.assertEqual(len(units), 5)
        done = self.analyzed("verify", "--man=no", *units)
        self.assertEqual((done.returncode, done.stderr, done.stdout), (0, "", ""))

    def test_exposure(self) -> None:
        """At most 1.5 of 10."""
        for service in SERVICES:
            unit = str(UNITS / f"torknock-{service}.service")
            done = self.analyzed("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit)
            self.assertEqual(done.returncode, 0, done.stdout[-200:])

    def test_sockets(self) -> None:
        """They are where the transports look for them."""
        for service, path in SOCKETS.items():
            self.assertEqual(directives(f"torknock-{service}.socket")["ListenStream"], [path])

    def test_capabilities(self) -> None:
        """One, and no way to more."""
        for service in SERVICES:
            said = directives(f"torknock-{service}.service")
            for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
                self.assertEqual(said[name], ["CAP_NET_ADMIN"])
            self.assertEqual((said["User"], said["NoNewPrivileges"]), (["torknock"], ["yes"]))

    def test_memory(self) -> None:
        """None is writable and executable, and none is dumped."""
        for service in SERVICES:
            said = directives(f"torknock-{service}.service")
            self.assertEqual((said["MemoryDenyWriteExecute"], said["LimitCORE"]), (["yes"], ["0"]))

    def test_commands(self) -> None:
        """The command lines are those of our command."""
        for service in SOCKETS:
            [line] = directives(f"torknock-{service}.service")["ExecStart"]
            program, verb, *arguments = line.split()
            self.assertEqual((program, verb), (PROGRAM, service))
            command = torknock.get_command(click.Context(torknock), verb)
            assert command is not None
            with command.make_context(verb, arguments) as context:
                named = {"gate": ACCESS, "dial": ("debian-tor",)}[service]
                self.assertIn(named, context.params.values())

    def test_filtered_ports_are_silent_before_the_network_is_up(self) -> None:
        """By nft alone, out of the file that setup writes; and the service that keeps them so is started."""
        said = directives("torknock-filtered.service")
        self.assertEqual(said["ExecStart"], [f"/usr/sbin/nft -f {FILTERED}"])
        self.assertEqual(said["ConditionPathExists"], [str(FILTERED)])
        self.assertIn("network-pre.target", said["Before"][0].split())
        self.assertIn("torknock-gate.service", said["Wants"][0].split())
        self.assertIn("nftables.service", said["After"][0].split())  # which flushes what was loaded before it

    def test_claims_are_in_a_directory_of_the_service(self) -> None:
        """Which outlives it: a bridge of root's own claims its door there too."""
        said = directives("torknock-gate.service")
        self.assertEqual(["/run/" + said["RuntimeDirectory"][0]], [str(doors(GATE_SOCKET))])
        self.assertEqual((said["RuntimeDirectoryMode"], said["RuntimeDirectoryPreserve"]), (["0700"], ["yes"]))


class WaitsTests(SynchronousTestCase):
    """The drop-in that keeps Debian's tor from starting before it is set up, by which it would connect directly."""

    skip = None if _analyze and shutil.which("tor") else "systemd or tor is missing; apt-get install systemd tor"

    CLIENT = f"UseBridges 1\nClientTransportPlugin torknock exec {PROGRAM} client\nBridge torknock 192.0.2.7:443\n"
    BRIDGE = f"BridgeRelay 1\nORPort 127.0.0.1:auto\nServerTransportPlugin obfs4,torknock exec {PROGRAM} server\n"

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def starts(self, part: str, torrc: str) -> bool:
        """Whether tor may start with *torrc*, in which {part} is where torknock's *part* is."""
        snippet, main, defaults = (self.directory / name for name in ("torknock.conf", "torrc", "defaults"))
        snippet.write_text(part)
        main.write_text(f"DataDirectory {self.directory}/data\n" + torrc.format(part=snippet))
        defaults.write_text("")
        [condition] = directives("tor-waits.conf")["ExecCondition"]
        self.assertTrue(condition.startswith("+/bin/sh -c '") and condition.endswith("'"))
        command = condition.removeprefix("+/bin/sh -c '").removesuffix("'")
        for path, here in (("/etc/tor/torrc", main), ("/usr/share/tor/tor-service-defaults-torrc", defaults)):
            self.assertIn(path, command)
            command = command.replace(path, str(here))
        return subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0

    def test_systemd_understands_it(self) -> None:
        """As a drop-in for a unit of tor's name."""
        (self.directory / "tor@default.service.d").mkdir()
        (self.directory / "tor@default.service").write_text(f"[Service]\nExecStart={sys.executable}\n")
        shutil.copy(UNITS / "tor-waits.conf", self.directory / "tor@default.service.d" / "torknock.conf")
        assert _analyze is not None
        done = subprocess.run(
            [_analyze, "verify", "--man=no", "tor@default.service"], capture_output=True, text=True, check=False,
            env={"SYSTEMD_UNIT_PATH": f"{self.directory}:", "PATH": os.environ["PATH"]},
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stderr, done.stdout), (0, "", ""))

    def test_a_tor_that_is_set_up_starts(self) -> None:
        """As a client of a bridge, or as a bridge beside another transport."""
        for part in (self.CLIENT, self.BRIDGE, self.BRIDGE.replace("obfs4,torknock", "torknock,obfs4")):
            self.assertTrue(self.starts(part, "%include {part}\n"), part)

    def test_a_tor_that_would_connect_directly_does_not_start(self) -> None:
        """The file is there, but torrc does not include it, or overrides it, or cannot be read as a whole."""
        for torrc in ("", "#%include {part}\n", "%include {part}\nUseBridges 0\n", "%include {part}\nNonsense 1\n"):
            self.assertFalse(self.starts(self.CLIENT, torrc), torrc)
        self.assertFalse(self.starts(self.BRIDGE.replace("torknock exec", "nottorknock exec"), "%include {part}\n"))
