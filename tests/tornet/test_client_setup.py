"""Tests of `torknock setup client` in a private Tor network: a tor that was direct is so no more, or says so."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.capture import Capture
from tests.support.debian import ROOT, Debian
from tests.support.netns import Host
from tests.support.tornet import PAGE, shared_network
from torknock.operate.setup.place import SNIPPET

needs_root = None if os.geteuid() == 0 else "a machine of its own needs root"


def connected(pid: int) -> set[tuple[str, int]]:
    """Where the process *pid* has TCP connections to, beyond its own host: addresses and ports."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
            inodes.add(found[1])
    ends = set()
    for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = row.split()
        if words[9] in inodes and words[3] in ("01", "02"):  # ESTABLISHED, SYN_SENT
            address, port = words[2].split(":")
            octets = bytes.fromhex(address)[::-1]
            if octets[0] != 127:
                ends.add((".".join(map(str, octets)), int(port, 16)))
    return ends


PYTHON = f"""#!{sys.executable.replace(str(ROOT), "/srv/torknock")}
import sys
sys.path.insert(0, "/srv/torknock")
"""

KILLED_BEFORE = ("setup.json", "torknock.conf", "torrc", "useradd", "setpriv", "tor --verify-config", "signal")
"""What is about to happen when a set-up is killed: a file written, a program started, tor told to read its torrc."""

KILLED = f"""{PYTHON}
import os, signal
step = sys.argv.pop(1)

def audit(event, arguments):
    if event == "os.rename" and os.path.basename(os.fspath(arguments[1])) == step:
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "subprocess.Popen" and step in " ".join(map(str, arguments[1])):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
if step == "signal":
    from torknock.tor.control import RunningTor
    RunningTor.reload = lambda self: os.kill(os.getpid(), signal.SIGKILL)
from torknock.cli import main
main()
"""

IMPATIENT = f"""{PYTHON}
from torknock.operate.setup import bridge_only
bridge_only._USED_WITHIN = 10.0
from torknock.cli import main
main()
"""
"""Where nobody answers, a minute would be no other than ten seconds."""


class ClientTests(SynchronousTestCase):
    """A Debian machine whose tor was in the network directly before."""

    skip = needs_root
    timeout = 240

    def setUp(self) -> None:
        self.network = shared_network()
        self.where, self.bridge, _ = self.machine("safe-bridge")
        said = self.bridge.run("torknock", "setup", "bridge", "--address", self.where.address, "--yes")
        self.assertEqual(said.returncode, 0, said.stderr)
        self.line = said.stdout.splitlines()[0]
        self.whence, self.client, self.tor = self.machine("safe-client")
        log = self.client.path("/var/log/tor.log")
        self.assertTrue(wait_for(lambda: "Bootstrapped 100%" in log.read_text(), 60), self.client.trouble("direct"))
        self.assertNotEqual(connected(self.tor.pid), set())

        self.torrc = self.client.path("/etc/tor/torrc").read_text()
        for name, program in (("killed", KILLED), ("impatient", IMPATIENT)):
            self.client.path(f"/usr/local/bin/{name}").write_text(program)
            self.client.path(f"/usr/local/bin/{name}").chmod(0o755)

    def machine(self, name: str) -> tuple[Host, Debian, Popen[Any]]:
        host = self.network.lab.host(name)
        debian = Debian(host)
        self.addCleanup(debian.close)
        return host, debian, debian.start_tor(self.network.authorities)

    def set_up(self, line: str, torknock: str = "torknock") -> tuple[int, str, str]:
        done = self.client.run(torknock, "setup", "client", "-", stdin=f"{line}\n")
        return done.returncode, done.stdout, done.stderr

    def test_a_line_that_opens(self) -> None:
        """From then on tor connects to the bridge and to nothing else; --undo asks, and stops tor."""
        with Capture(self.network.lab.hub, self.whence.hub_interface) as wire:
            status, said, told = self.set_up(self.line)
            self.assertEqual((status, said), (0, "tor uses the bridge\n"), self.client.trouble(told))
            self.assertEqual(connected(self.tor.pid), set())
            self.assertEqual(self.network.fetch("/", via=self.client), PAGE)
            self.assertEqual(connected(self.tor.pid), set())
        self.assertEqual({packet.destination_port for packet in wire.tcp() if packet.opens}, {443})
        asked = self.client.run("torknock", "setup", "--undo", stdin="n\n")
        self.assertEqual(asked.returncode, 1)
        self.assertIn("Without the bridge tor connects to the Tor network directly", asked.stderr)
        self.assertEqual(self.network.fetch("/", via=self.client), PAGE)
        stopped = self.client.run("torknock", "setup", "--undo", "--yes")
        self.assertEqual(stopped.returncode, 0, stopped.stderr)
        self.assertIn("tor is stopped", stopped.stderr)
        self.assertTrue(wait_for(lambda: self.tor.poll() is not None))
        self.assertEqual(self.client.path("/etc/tor/torrc").read_text(), self.torrc)

    def reload(self) -> None:
        """As logrotate does every day; and the time to connect to somewhere else."""
        log = self.client.path("/var/log/tor.log")
        before = log.read_text().count("Read configuration file")
        os.kill(self.tor.pid, signal.SIGHUP)
        self.assertTrue(wait_for(lambda: log.read_text().count("Read configuration file") > before))
        time.sleep(3)

    def test_a_line_that_is_revoked(self) -> None:
        """It is said, though another worked until now; tor goes on trying the bridge, and connects to nothing else."""
        self.assertEqual(self.set_up(self.line)[0], 0)
        dead = self.bridge.run("torknock", "line", "add", "dead").stdout.strip()
        self.bridge.run("torknock", "line", "revoke", "dead")
        status, said, told = self.set_up(dead, "/usr/local/bin/impatient")
        self.assertEqual((status, said), (1, ""), told)
        self.assertIn("has not answered", told)
        self.assertIn("connects to nothing else", told)
        self.assertEqual(connected(self.tor.pid), set())
        self.reload()
        self.assertEqual(connected(self.tor.pid), set())
        self.assertEqual(self.set_up(self.line)[0], 0)
        self.assertEqual(self.set_up(self.line)[0], 0)

    def test_a_torrc_that_overrides_the_bridge(self) -> None:
        """It is said before tor has its network again."""
        self.client.path(str(SNIPPET.parent)).mkdir()
        self.client.path("/etc/tor/torrc").write_text(f"{self.torrc}%include {SNIPPET.parent}/*.conf\nUseBridges 0\n")
        status, _, told = self.set_up(self.line)
        self.assertEqual((status, connected(self.tor.pid)), (1, set()), told)
        self.assertIn("UseBridges", told.splitlines()[-1])

    def test_a_torrc_whose_include_is_a_comment(self) -> None:
        """It is no line of torrc, and another is added."""
        self.client.path("/etc/tor/torrc").write_text(f"{self.torrc}#%include {SNIPPET}\n")
        status, _, told = self.set_up(self.line)
        self.assertEqual((status, connected(self.tor.pid)), (0, set()), told)

    def test_a_setup_that_is_killed_leaves_the_bridge_or_nothing(self) -> None:
        """Killed at whatever step, tor has the bridge or nothing; only --undo --direct lets it go back."""
        for step in KILLED_BEFORE:
            killed = self.client.run("/usr/local/bin/killed", step, "setup", "client", "-", stdin=f"{self.line}\n")
            self.assertEqual(killed.returncode, -signal.SIGKILL, f"{step}: {killed.stderr}")
            time.sleep(1)
            self.assertEqual(connected(self.tor.pid), set(), step)
        self.assertEqual(self.set_up(self.line)[0], 0)
        self.assertEqual(self.network.fetch("/", via=self.client), PAGE)
        self.assertEqual(self.client.run("torknock", "setup", "--undo", "--direct", "--yes").returncode, 0)
        self.assertTrue(wait_for(lambda: bool(connected(self.tor.pid)), 30))
        self.assertEqual(self.client.path("/etc/tor/torrc").read_text(), self.torrc)
