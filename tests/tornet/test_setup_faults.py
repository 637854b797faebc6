"""Tests of `torknock setup` when something goes wrong: a wrong torrc, a second set-up, a tor that is silent, a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.kernel.test_gate import wait_for
from tests.support.debian import ROOT
from tests.support.rulesets import DOCKER
from tests.tornet.test_setup import OFFLINE, Case
from torknock.operate.setup.place import RECORD, SNIPPET

PATH = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class FaultTests(Case):
    """Whatever happened, `--undo` gives back the host as it was."""

    def setUp(self) -> None:
        super().setUp()
        self.tor = self.debian.start_tor(OFFLINE)
        self.before = self.state()

    def state(self) -> dict[str, str]:
        """What a set-up may touch."""
        found = {"torrc": self.torrc()}
        for path in ("/etc/passwd", "/etc/group"):
            found[path] = self.debian.path(path).read_text()
        for path in ("/etc/tor", "/var/lib", "/etc"):
            found[path] = " ".join(sorted(each.name for each in self.debian.path(path).iterdir() if each.name != "tor"))
        return found

    def undo(self) -> None:
        self.torknock("setup", "--undo")
        after = self.state()
        for each in after.items():
            self.assertIn(each, self.before.items())
        self.assertFalse(self.debian.path(str(SNIPPET)).exists())
        self.assertIsNone(self.tor.poll())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, which is not waited for."""
        return subprocess.Popen(
            ["nsenter", f"--net={self.bridge.path}", *self.debian.within(["torknock", *arguments])],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=PATH,
        )  # fmt: skip

    def test_the_first_setup_survives_a_second_that_fails(self) -> None:
        """Its snippet is as it was, and is still known as ours."""
        self.set_up()
        snippet = self.debian.path(str(SNIPPET)).read_text()
        good = self.torrc()
        self.debian.path("/etc/tor/torrc").write_text(good + "Nonsense 1\n")
        self.torknock("setup", "bridge", "--port", "8443", "--yes", "--address", self.bridge.address, status=1)
        self.assertEqual(self.debian.path(str(SNIPPET)).read_text(), snippet)
        self.debian.path("/etc/tor/torrc").write_text(good)
        self.undo()

    def test_nothing_stays_of_a_setup_that_failed(self) -> None:
        """Neither user, nor service, nor record."""
        torrc = self.debian.path("/etc/tor/torrc")
        good = torrc.read_text()
        torrc.write_text(good + "Nonsense 1\n")
        self.torknock("setup", "bridge", "--yes", "--address", self.bridge.address, status=1)
        torrc.write_text(good)
        self.assertEqual(self.state(), self.before)
        self.assertFalse(self.debian.path(str(RECORD)).exists())

    def test_a_port_that_a_container_publishes(self) -> None:
        """The rule is named, nothing is changed, and strangers get what they got; another port is hidden."""
        self.bridge.run(["iptables-nft-restore"], DOCKER)
        before = self.bridge.run(["nft", "list", "ruleset"]).stdout
        for posture in ("closed", "filtered", "decoy"):
            wanted = ("--posture", posture, "--yes", "--address", self.bridge.address)
            self.torknock("setup", "bridge", *wanted, status=1)
            self.assertIn("takes port 443 to another service", self.told)
            self.assertIn("-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT", self.told)
        self.assertEqual(self.state(), self.before)
        self.assertFalse(self.debian.path(str(RECORD)).exists())
        self.assertEqual(self.bridge.run(["nft", "list", "ruleset"]).stdout, before)
        self.torknock("setup", "bridge", "--port", "8443", "--yes", "--address", self.bridge.address)
        self.undo()

    def test_what_tor_cannot_do(self) -> None:
        """The reason is tor's warning, not the summary that refers to it; nothing stays."""
        torrc = self.debian.path("/etc/tor/torrc")
        good = torrc.read_text()
        for option, reason in (
            ("Sandbox 1", "Managed proxies are not compatible with Sandbox mode"),
            ("Nonsense 1", "Unknown option 'Nonsense'"),
            ("%include /etc/tor/none.conf", "Error reading included configuration file"),
        ):
            torrc.write_text(f"{good}{option}\n")
            self.torknock("setup", "bridge", "--yes", "--address", self.bridge.address, status=1)
            self.assertIn(reason, self.told)
            self.assertNotIn("see warnings above", self.told)
            torrc.write_text(good)
            self.assertEqual(self.state(), self.before)

    def test_a_transport_that_does_not_start(self) -> None:
        """The reason is what it said, no change of state; neither user, gate nor configuration stay."""
        program = self.debian.path("/usr/local/bin/torknock")
        good = program.read_text()
        errors = "VERSION 1\\nSMETHOD-ERROR torknock out of order\\nSMETHODS DONE"
        for fault, reason in (
            (f'print("{errors}", flush=True); __import__("time").sleep(99)', "out of order"),
            ('sys.exit("no module")', "no module|terminated with status code 1"),
        ):
            program.write_text(good.replace("import sys\n", f'import sys\nif sys.argv[1] == "server":\n    {fault}\n'))
            self.torknock("setup", "bridge", "--yes", "--address", self.bridge.address, status=1)
            self.assertRegex(self.told, reason)
            self.assertNotIn("changed state", self.told)
            self.assertEqual(self.state(), self.before)
            self.assertTrue(wait_for(lambda: not self.running()))
            self.assertIsNone(self.tor.poll(), self.debian.trouble(fault))
        program.write_text(good)
        self.set_up()
        self.undo()

    def test_an_undo_that_tor_would_not_survive(self) -> None:
        """It is not told to read what is wrong; a directory that an operator made and included stays."""
        directory = self.debian.path(str(SNIPPET.parent))
        directory.mkdir()
        torrc = self.debian.path("/etc/tor/torrc")
        own = self.torrc() + f"%include {SNIPPET.parent}/*.conf\n"
        torrc.write_text(own)
        self.set_up()
        torrc.write_text(own + "Nonsense 1\n")
        self.torknock("setup", "--undo")
        self.assertIn("so tor was not reloaded", self.told)
        self.assertTrue(directory.is_dir())
        self.assertIsNone(self.tor.poll())

    def test_a_directory_that_is_included_since(self) -> None:
        """setup made it, and an operator includes it by now: it stays, for tor would not start without it."""
        self.set_up()
        torrc = self.debian.path("/etc/tor/torrc")
        torrc.write_text(f"{torrc.read_text()}%include {SNIPPET.parent}\n")
        self.torknock("setup", "--undo")
        self.assertIn(f"{SNIPPET.parent} stays, for /etc/tor/torrc includes it", self.told)
        self.assertEqual(self.torrc(), f"{self.before['torrc']}%include {SNIPPET.parent}\n")
        self.assertEqual(list(self.debian.path(str(SNIPPET.parent)).iterdir()), [])

        self.assertIsNone(self.tor.poll())

    def test_two_at_once(self) -> None:
        """One is done, the other is told so; both are undone by one undo."""
        both = [self.start("setup", "bridge", "--yes", "--address", self.bridge.address, "--port", port)
                for port in ("443", "8443")]  # fmt: skip
        ends = [each.communicate(timeout=60) for each in both]
        self.assertEqual(sorted(each.returncode for each in both), [0, 1], ends)
        self.assertIn("another torknock setup", ends[both[0].returncode == 0][1])
        self.undo()

    def test_a_tor_that_does_not_answer(self) -> None:
        """Everything ends in a time that is known, and says why."""
        self.set_up()
        os.kill(self.tor.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.tor.pid, signal.SIGCONT)
        for arguments in (("doctor", "bridge"), ("setup", "bridge", "--yes"), ("setup", "--undo")):
            command = self.start(*arguments)
            try:
                _, told = command.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                command.kill()
                self.fail(f"{arguments} waits for a tor that does not answer")
            self.assertNotIn("Traceback", told)
        self.assertIn("does not answer", told)
        os.kill(self.tor.pid, signal.SIGCONT)
        self.assertEqual(self.torrc(), self.before["torrc"])

    def test_an_upgrade_is_seen_and_restarts_both(self) -> None:
        """What runs is older than what is installed: doctor says so, and the next set-up starts both again."""
        line = self.set_up()
        self.assertRegex(self.doctor(), "ok +version")
        before = self.running()
        source = ROOT / "torknock" / "__init__.py"
        status = source.stat()
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))  # as one that was installed now
        time.sleep(1.5)  # the kernel tells the time of its start in whole seconds
        old = "processes of an older version run: torknock server, torknock gate"
        self.assertRegex(self.doctor(), f"not ok +version .*{old}")
        self.assertEqual(self.set_up(), line)
        after = self.running()
        self.assertEqual((len(before), len(after), before & after), (2, 2, set()))
        self.assertRegex(self.doctor(), "\\nok +version")
        self.undo()

    def doctor(self) -> str:
        return self.debian.run("torknock", "doctor", "bridge").stdout

    def running(self) -> set[int]:
        """The transport and the service."""
        words = [(pid, Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in self.bridge.pids()]
        return {pid for pid, word in words if b"torknock\0server" in word or b"torknock\0gate" in word}


class RestTests(Case):
    """A tor that is installed and does not run: it is configured before its first start."""

    def test_a_client_is_configured_before_tor_starts(self) -> None:
        """Its configuration has the bridge, and it is said what to do; one undo gives all back."""
        before = self.torrc()
        line = f"torknock 198.51.100.7:443 {'A' * 40} key={'A' * 43} pin={'A' * 43}"
        self.torknock("setup", "client", "-", stdin=f"{line}\n", status=1)
        self.assertIn("tor is configured, but does not run; start it", self.told)
        snippet = self.debian.path(str(SNIPPET)).read_text().splitlines()
        self.assertEqual((snippet[1], snippet[-1]), ("UseBridges 1", f"Bridge {line}"))
        self.torknock("setup", "--undo", "--yes")
        self.assertEqual(self.torrc(), before)
        self.assertFalse(self.debian.path(str(RECORD)).exists())

    def test_a_bridge_goes_on_once_tor_was_started(self) -> None:
        """Once tor was started, the same command goes on."""
        said = ("setup", "bridge", "--address", self.bridge.address, "--yes")
        self.torknock(*said, status=1)
        self.assertIn("start it", self.told)
        self.debian.start_tor(OFFLINE)
        self.assertIn("torknock ", self.torknock(*said))
        self.assertIn("nothing is to be changed", self.told)

    def test_a_torrc_that_is_wrong(self) -> None:
        """It is said, and nothing is changed."""
        self.debian.path("/etc/tor/torrc").write_text("Nonsense 1\n")
        self.torknock("setup", "bridge", "--address", self.bridge.address, "--yes", status=1)
        self.assertIn("does not take its configuration (/etc/tor/torrc) as it is: Failed to parse", self.told)
        self.assertIn("Unknown option 'Nonsense'", self.told)
        self.assertFalse(self.debian.path(str(RECORD)).exists())
