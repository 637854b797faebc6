"""Tests of what the one capability of the services is enough for."""

from __future__ import annotations

import os
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from tests.support.netns import Lab


class CapabilityTests(SynchronousTestCase):
    """What the one capability is enough for."""

    skip = None if os.geteuid() == 0 else "network namespaces need root"

    def test_the_commands_of_the_gate(self) -> None:
        """nft and iptables do their work for a user who has CAP_NET_ADMIN and no way to more."""
        privilege = [
            "setpriv", "--reuid=64001", "--regid=64001", "--clear-groups", "--no-new-privs",
            "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
        ]  # fmt: skip
        ruleset = """
            table inet torknock {
                set tokens { typeof tcp sequence; timeout 300s; }
                chain prerouting {
                    type filter hook prerouting priority mangle;
                    tcp dport 443 tcp sequence @tokens tproxy ip to 127.0.0.1:4430 meta mark set 1 accept
                }
            }
        """
        rule = ["-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "--dport", "443", "-m", "socket", "-j", "ACCEPT"]
        with Lab() as lab:
            host = lab.host("bridge")

            def run(program: str, *arguments: str, stdin: str | None = None) -> str:
                return host.run([*privilege, "env", "-i", f"/usr/sbin/{program}", *arguments], stdin).stdout

            run("nft", "-f", "-", stdin=ruleset)
            run("nft", "add element inet torknock tokens { 7 }")
            self.assertIn("elements = { 7 ", run("nft", "list", "table", "inet", "torknock"))
            for program in self.iptables():
                run(program, *rule)
                self.assertIn("--dport 443", run(f"{program}-save", "-t", "mangle"))
                run(f"{program}-restore", "--noflush", stdin="*mangle\nCOMMIT\n")

    def iptables(self) -> Iterator[str]:
        for version in ("", "6"):
            yield f"ip{version}tables-nft"
