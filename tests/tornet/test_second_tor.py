"""Tests of `torknock setup` on a host with two tors: what belongs to one is never touched for the other."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.kernel.test_gate import wait_for
from tests.support.bridge import knock
from tests.support.debian import UNIT
from tests.support.netns import end
from tests.tornet.test_setup import OFFLINE, Case
from torknock.operate.setup.place import RECORD, SNIPPET
from torknock.service.access import ACCESS

CONTROL = "/run/tor-instances/b/control"
TORRC = "/etc/tor/instances/b/torrc"

SECOND = """
set -e
tor-instance-create b 2>/dev/null
install -m 2755 -o _tor-b -g _tor-b -d /run/tor-instances /run/tor-instances/b
sed 's/@@NAME@@/b/g' /usr/share/tor/tor-service-defaults-torrc-instances > /run/tor-instances/b.defaults
"""
"""As Debian's unit tor@b.service prepares it."""


class SecondTorTests(Case):
    """Debian's tor, and an instance of it, each with a hidden bridge."""

    def setUp(self) -> None:
        super().setUp()
        self.first = self.debian.start_tor(OFFLINE)
        made = self.debian.run("bash", "-c", SECOND)
        self.assertEqual(made.returncode, 0, made.stderr)
        with self.debian.path(TORRC).open("a") as torrc:
            torrc.write(OFFLINE)
        self.second = self.start_second()

    def start_second(self) -> subprocess.Popen[Any]:
        command = [*UNIT, "/usr/bin/tor", "--defaults-torrc", "/run/tor-instances/b.defaults", "-f", TORRC,
                   "--RunAsDaemon", "0", "--Log", "notice stdout"]  # fmt: skip
        with self.debian.path("/var/log/tor-b.log").open("w") as log:
            tor = self.bridge.popen(self.debian.within(command), stdout=log, stderr=log)
        self.addCleanup(end, [tor])
        self.assertTrue(wait_for(lambda: self.debian.path(CONTROL).is_socket()))
        return tor

    def set_up_second(self, *more: str, status: int = 0) -> None:
        self.torknock(
            "setup", "bridge", "--control", CONTROL, "--address", self.bridge.address, "--yes", *more, status=status
        )

    def files(self) -> dict[str, tuple[bytes, str]]:
        """What a set-up may touch, octet for octet, with kind, owner and mode."""
        found = {}
        for each in ("etc/tor", "etc/torknock", "var/lib/torknock"):
            for path in [self.debian.path(f"/{each}"), *self.debian.path(f"/{each}").rglob("*")]:
                if path.exists():
                    status = path.stat()
                    octets = path.read_bytes() if path.is_file() else b""
                    found[str(path)] = (octets, f"{status.st_mode:o} {status.st_uid} {status.st_gid}")
        for name in ("passwd", "group"):
            found[name] = (self.debian.path(f"/etc/{name}").read_bytes(), "")
        return found

    def is_open_to_none(self, port: int) -> bool:
        """Whether a gate guards the port: it is as closed as any, and its table is there."""
        tables = self.bridge.run(["nft", "list", "tables"]).stdout
        return knock(self.stranger, self.bridge.address, port, None) == "refused" and f"torknock-{port}" in tables

    def test_each_is_its_own(self) -> None:
        """The second is set up, fails, moves and goes; the first is as it was, also after a reload, and goes alone."""
        self.set_up()
        before = self.files()
        self.set_up_second(status=1)  # port 443 is the first's
        self.assertIn("name another port", self.told)
        self.assertEqual(self.files(), before)
        torrc = self.debian.path(TORRC)
        good = torrc.read_text()
        torrc.write_text(good + "Sandbox 1\n")
        self.set_up_second("--port", "8443", status=1)
        self.assertIn("not compatible with Sandbox mode", self.told)
        torrc.write_text(good)
        self.assertEqual(self.files(), before)
        self.set_up_second("--port", "8443")
        self.assertTrue(self.is_open_to_none(443) and self.is_open_to_none(8443))
        for path, was in before.items():
            if not path.endswith(("gate.toml", "/instances/b/torrc", "/instances/b")):
                self.assertEqual(self.files().get(path), was, path)
        self.reloaded()
        self.set_up()
        self.assertIn("nothing is to be changed", self.told)
        self.set_up_second("--port", "8443")
        self.assertIn("nothing is to be changed", self.told)
        self.torknock("setup", "--undo", "--control", CONTROL)
        self.assertEqual(self.files(), before)
        self.assertTrue(self.is_open_to_none(443))
        self.assertFalse("torknock-8443" in self.bridge.run(["nft", "list", "tables"]).stdout)

    def test_the_first_goes(self) -> None:
        """The second stays whole; once it goes as well, all is as it was before both."""
        clean = self.files()
        self.set_up()
        self.set_up_second("--port", "8443", "--posture", "closed")
        self.torknock("setup", "--undo")
        self.assertFalse(self.debian.path(str(SNIPPET)).exists())
        self.assertFalse(self.debian.path(str(RECORD)).exists())
        self.assertTrue(self.is_open_to_none(8443))
        self.torknock("setup", "--undo", status=2)
        self.assertIn("name it with --control", self.told)
        end([self.second])
        self.second = self.start_second()
        log = self.debian.path("/var/log/tor-b.log")
        self.assertTrue(wait_for(lambda: self.is_open_to_none(8443)), log.read_text())
        self.torknock("setup", "--undo", "--control", CONTROL)
        self.assertEqual(self.files(), clean)
        self.assertFalse(self.debian.path(str(ACCESS.parent)).exists())

    def reloaded(self) -> None:
        """Both read their configuration again, as they do every day, and live on."""
        for tor in (self.first, self.second):
            self.debian.run("kill", "-HUP", str(tor.pid))
        self.assertFalse(wait_for(lambda: self.first.poll() is not None or self.second.poll() is not None, 3))
        self.assertTrue(wait_for(lambda: self.is_open_to_none(443) and self.is_open_to_none(8443)))
