"""Tests of bridge and client on Debian machines, from `torknock setup` to a web page, in a private Tor network.

Both tors run under the restrictions of Debian's unit, both services as a user of their own with one capability.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import knock
from tests.support.debian import Debian
from tests.support.mdwe import MDWE, why_not
from tests.support.netns import Host
from tests.support.tornet import PAGE, content, shared_network

PEEK = """
import ctypes, os, sys
pid = int(sys.argv[1])
for name in ("mem", "maps", "environ", "auxv", "fd/0"):
    try:
        os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
        print(name)
    except OSError:
        pass
if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH, linux/ptrace.h
    print("ptrace")
"""
"""Prints what it learns of another process of its user."""

NET_ADMIN = 1 << 12
NONE = 0

needs_root = None if os.geteuid() == 0 else "a machine of its own needs root"


class DebianTests(SynchronousTestCase):
    """Two Debian machines, each set up by one command."""

    skip = needs_root
    timeout = 240

    before = () if why_not() else MDWE
    """Where the kernel can, no memory of any process is writable and executable."""

    def machine(self, name: str) -> tuple[Host, Debian]:
        host = shared_network().lab.host(name)
        debian = Debian(host)
        self.addCleanup(debian.close)
        debian.start_tor(shared_network().authorities, self.before)
        return host, debian

    def capabilities(self, host: Host, verb: str) -> int:
        """What `torknock VERB` may do on *host*."""
        for pid in host.pids():
            if f"torknock {verb}" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                status = Path(f"/proc/{pid}/status").read_text()
                found = dict(re.findall(r"^(Cap\w+|NoNewPrivs|Uid):\s+(\w+)", status, re.MULTILINE))
                self.assertNotEqual(found["Uid"], "0")
                self.assertEqual(found["NoNewPrivs"], "1")
                self.assertEqual(found["CapEff"], found["CapPrm"])
                self.assert_private(pid, found["Uid"])
                return int(found["CapEff"], 16)
        self.fail(f"torknock {verb} does not run")

    def assert_private(self, pid: int, user: str) -> None:
        """No other process of *user* reads the memory of process *pid*, and no core dump is made of it."""
        self.assertRegex(Path(f"/proc/{pid}/limits").read_text(), "Max core file size +0 +0 ")
        another = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all"]
        peeking = [*another, "/usr/bin/python3", "-c", PEEK, str(pid)]
        seen = subprocess.run(peeking, capture_output=True, text=True, check=True)
        self.assertEqual(seen.stdout, "")

    def test_from_setup_to_a_page(self) -> None:
        """The transports have no capability, the services one; the client gets through, a stranger sees nothing.

        No memory is writable and executable, as in a unit with MemoryDenyWriteExecute: of tor, its transports, both
        services and `setup`.
        """
        network = shared_network()
        where, bridge = self.machine("deb-bridge")
        said = bridge.run(*self.before, "torknock", "setup", "bridge", "--address", where.address, "--yes")
        self.assertEqual(said.returncode, 0, said.stderr)
        line = said.stdout.splitlines()[0]
        whence, client = self.machine("deb-client")
        started = client.run(*self.before, "torknock", "setup", "client", "-", stdin=f"{line}\n")
        self.assertEqual(started.returncode, 0, client.trouble(started.stderr))
        self.assertEqual(started.stdout, "tor uses the bridge\n")
        self.assertEqual(network.fetch("/", via=client), PAGE)
        self.assertEqual(network.fetch("/bytes/1000000", via=client), content(1_000_000))
        for host, transport, service in ((where, "server", "gate"), (whence, "client", "dial")):
            self.assertEqual((self.capabilities(host, transport), self.capabilities(host, service)), (NONE, NET_ADMIN))
        self.assertEqual(knock(network.lab.host("probe"), where.address, 443, None), "refused")
        again = client.run(*self.before, "torknock", "setup", "client", "-", stdin=f"{line}\n")
        self.assertIn("nothing is to be changed", again.stderr)
        bridge.close()  # its users have the same numbers
        undone = client.run("torknock", "setup", "--undo", "--yes")
        self.assertEqual(undone.returncode, 0, undone.stderr)
        self.assertNotIn("torknock:x", client.path("/etc/passwd").read_text())
        self.assertTrue(wait_for(lambda: not self.runs(whence)), self.runs(whence))

    def runs(self, host: Host) -> list[str]:
        """What of ours runs on *host*."""
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in host.pids()]
        return [line for line in lines if "torknock" in line]
