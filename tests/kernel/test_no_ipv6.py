"""Tests on hosts without IPv6: the kernel has none (`ipv6.disable=1`), or no interface has it (`disable_ipv6`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case as ServiceCase
from tests.support.bridge import GREETING, TORKNOCK, HiddenService, knock
from tests.support.netns import CommandFailed, Lab
from torknock.protocol.bridge_line import BridgeLine, write_bridge_line
from torknock.protocol.token import epoch_at, tokens

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

WITHOUT = [sys.executable, str(Path(__file__).parent.parent / "support" / "without_ipv6.py")]
"""What a command is put behind that shall see a kernel without IPv6."""


class BridgeTests(SynchronousTestCase):
    """A bridge that lets clients in over IPv4, which is all that there is."""

    skip = needs_root
    timeout = 120

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")

    def start(self, port: int, before: Sequence[str] = (), helper: Path | None = None) -> HiddenService:
        """A bridge at *port*, with a line whose tokens are `fresh`."""
        service = HiddenService(self.bridge, f"0.0.0.0:{port}", before=before, helper=helper)
        self.addCleanup(service.close)
        self.fresh = self.tokens(service)
        return service

    def tokens(self, service: HiddenService) -> Iterator[int]:
        line = service.line("alice", time.time(), n=128).line
        for ahead in (0, 1, -1):
            yield from tokens(line.secret, line.bridge_name, epoch_at(time.time()) + ahead, line.n)

    def assert_hidden(self, service: HiddenService, port: int, stranger: str) -> None:
        """A token opens it, a stranger sees what the posture says."""

        def opens() -> bool:
            return knock(self.client, self.bridge.address, port, next(self.fresh)) == GREETING

        self.assertTrue(wait_for(opens), service.said)
        self.assertEqual(knock(self.client, self.bridge.address, port, 0x2A2A2A2A, 1.0), stranger)

    def disable(self) -> None:
        for name in ("all", "lo", "eth0"):
            self.bridge.sysctl(f"net.ipv6.conf.{name}.disable_ipv6", 1)

    def test_a_kernel_without_it(self) -> None:
        """The gate has one hidden listener, and its ruleset takes nothing to another."""
        service = self.start(443, WITHOUT)
        self.assert_hidden(service, 443, "refused")
        rules = self.bridge.run([TORKNOCK, "rules"]).stdout
        self.assertIn("tproxy ip to", rules)
        self.assertNotIn("tproxy ip6", rules)

    def test_no_interface_that_has_it(self) -> None:
        """Sockets of AF_INET6 can be made, and ::1 cannot be had."""
        self.disable()
        service = self.start(443)
        self.assert_hidden(service, 443, "refused")

    def test_the_filter_has_no_second_pair_of_sockets(self) -> None:
        """Nor has the filter at the transport's own port a second pair of sockets."""
        nowhere = Path("/nonexistent/gate.sock")
        self.assert_hidden(self.start(8443, WITHOUT, nowhere), 8443, "silence")

    def test_without_privilege_and_an_interface(self) -> None:
        """The sockets for :: are had, and hear nothing."""
        self.disable()
        self.assert_hidden(self.start(8443, (), Path("/nonexistent/gate.sock")), 8443, "silence")

    def test_an_ipv6_address_to_guard(self) -> None:
        """One line that says so, and no bridge."""
        service = HiddenService(self.bridge, f"[{self.bridge.address6}]:443", before=WITHOUT)
        self.addCleanup(service.close)
        said = "\n".join(service.said)
        self.assertIn("this kernel has no IPv6", said)
        self.assertNotIn("internal error", said)

    def test_a_client_dials(self) -> None:
        """A knock over IPv4 leaves a host that has nothing else."""
        service = HiddenService(self.bridge)
        self.addCleanup(service.close)
        issued = service.line("alice", time.time())
        line = write_bridge_line(BridgeLine(ip_address(self.bridge.address), 443, "0" * 40, issued.line))
        time.sleep(1.0)  # the gate takes lines up twice a second
        done = self.client.popen([*WITHOUT, TORKNOCK, "check", line], stdout=subprocess.PIPE, text=True)
        self.assertRegex(done.communicate()[0], "(?m)^ok +line")

    def test_what_an_operator_and_a_client_run(self) -> None:
        """No traceback anywhere; an IPv6 address is refused in one line that says why."""
        line = f"torknock {{}} {'A' * 40} key={'A' * 43} pin={'A' * 43}"
        for command, word in (
            (["doctor", "client"], "tor"),
            (["doctor", "bridge"], "tor"),
            (["check", line.format("[2001:db8:2::2]:443")], "no IPv6"),
            (["check", "path", "[2001:db8:2::2]:443"], "no IPv6"),
            (["reflect", "--listen", "[::]:4430"], "no IPv6"),
        ):
            try:
                said = self.bridge.run([*WITHOUT, TORKNOCK, *command]).stdout
            except CommandFailed as error:
                said = str(error)
            self.assertNotIn("Traceback", said, command)
            self.assertNotIn("internal error", said, command)
            if word:
                self.assertIn(word, said, command)


class ServiceTests(ServiceCase):
    """The gate service hands over one descriptor in the place of two."""

    def serve(self) -> object:  # type: ignore[override]  # the process, which nobody here asks for
        return None

    def test_a_kernel_without_it(self) -> None:
        """For the service and for the transport."""
        command = [*WITHOUT, sys.executable, "-m", "torknock", "gate", "--socket", str(self.path)]
        root = Path(__file__).parent.parent.parent
        with (self.directory / "log").open("a") as log:
            self.bridge.popen([*command, "--access", str(self.access)], cwd=root, stderr=log)
        self.assertTrue(wait_for(self.path.exists))
        service = HiddenService(self.bridge, "0.0.0.0:443", helper=self.path, before=WITHOUT)
        self.addCleanup(service.close)
        line = service.line("alice", time.time(), n=64).line
        fresh = iter(tokens(line.secret, line.bridge_name, epoch_at(time.time()), line.n))
        self.assertTrue(
            wait_for(lambda: knock(self.client, self.bridge.address, 443, next(fresh)) == GREETING), service.said
        )
