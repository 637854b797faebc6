"""Tests of torknock.tor with a real tor that reaches nobody: its only authority would be at a port of loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.reactor import reactor
from torknock.tor.control import RunningTor, tor_at
from torknock.tor.inspect import TorUnreachable, ask_tor
from torknock.tor.link import asking
from torknock.tor.watch import TorSeen, TorUnseen, Watch

TORRC = f"""
TestingTorNetwork 1
DirAuthority nobody orport=1 no-v2 v3ident={"A" * 40} 127.0.0.1:1 {"B" * 40}
BridgeRelay 1
PublishServerDescriptor 0
AssumeReachable 1
Address 192.0.2.7
ORPort 127.0.0.1:auto IPv4Only
ExtORPort auto
SocksPort 0
CookieAuthentication 1
CookieAuthFile {{directory}}/cookie
ControlSocket {{directory}}/control RelaxDirModeCheck
DataDirectory {{directory}}/data
ServerTransportPlugin torknock exec {{directory}}/transport
Log notice file {{directory}}/log
"""

TRANSPORT = """#!/bin/sh
echo VERSION 1
echo SMETHOD torknock 127.0.0.1:1
echo SMETHODS DONE
while ! [ -e {directory}/go ]; do sleep 0.05; done
echo 'LOG SEVERITY=warning MESSAGE="no answer from 203.0.113.9 nor [2001:db8::9]:443"'
cat > /dev/null
"""


class RunningTorCase(TestCase):
    """A bridge's tor without a network."""

    timeout = 120

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tor-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.control = str(self.directory / "control")
        transport = self.directory / "transport"
        transport.write_text(TRANSPORT.format(directory=self.directory))
        transport.chmod(0o700)
        self.torrc = self.directory / "torrc"
        self.torrc.write_text(TORRC.format(directory=self.directory))
        command: list[str | Path] = [
            "tor",
            "-f",
            self.torrc,
            "--defaults-torrc",
            self.directory / "none",
            "--ignore-missing-torrc",
        ]
        self.tor = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.addCleanup(self.tor.wait)
        self.addCleanup(self.tor.kill)
        self.until(lambda: "Registered server transport 'torknock'" in self.log())

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def until(self, true: Callable[[], bool]) -> None:
        while not true():
            assert self.tor.poll() is None, self.log()
            time.sleep(0.02)

    def asked(self, question: Callable[[RunningTor], Any]) -> Deferred[Any]:
        """What *question* tells of the tor, in a thread."""

        def ask() -> Any:
            with tor_at(self.control, None) as running:
                return question(running)

        return deferToThread(ask)


class ControlTests(RunningTorCase):
    """`RunningTor` and `ask_tor`."""

    async def test_what_it_says_of_itself(self) -> None:
        """Its options, its listeners, who it is and whom it runs as."""
        told = await deferToThread(ask_tor, self.control)
        self.assertEqual((told.version[:2], told.pid), ((0, 4), self.tor.pid))
        self.assertEqual(told.data_directory, self.directory / "data")
        self.assertEqual(told.of_torknock("ServerTransportPlugin"), f"exec {self.directory}/transport")
        self.assertIsNone(told.of_torknock("ClientTransportPlugin"))
        self.assertEqual((len(told.or_listeners), told.consensus, told.refusing), (1, None, ""))
        same = await self.asked(lambda tor: (tor.facts(), tor.config_file, tor.defaults_file, tor.address, tor.user))
        self.assertEqual(same[:4], (told, self.torrc, None, "192.0.2.7"))
        owner = Path(f"/proc/{self.tor.pid}").stat().st_uid
        self.assertIn(same[4], (str(owner), self.directory.owner()))
        self.assertEqual(await self.asked(lambda tor: (tor.connected(), tor.first_hops())), (set(), set()))

    async def test_its_network_is_disabled_until_it_reads_its_torrc(self) -> None:
        """What it logs then is heard, also why its transport fails; and it ends when it is told to."""
        self.assertFalse(await self.asked(lambda tor: tor.network_disabled))

        def disable(tor: RunningTor) -> bool:
            tor.disable_network()
            return tor.network_disabled

        self.assertTrue(await self.asked(disable))

        def reload(tor: RunningTor) -> tuple[bool, bool, bool, str | None]:
            with tor.heard():
                tor.reload()
                heard = tor.reads_within(60), tor.registers_within(60)
                (self.directory / "go").touch()
                while tor.complaint is None:
                    time.sleep(0.02)
            return *heard, tor.failed, tor.complaint

        self.torrc.write_text(self.torrc.read_text() + "ContactInfo nobody\n")
        (self.directory / "transport").write_text(
            (self.directory / "transport").read_text().replace("no answer", "torknock: error, no answer")
        )
        self.torrc.write_text(self.torrc.read_text().replace("/transport\n", "/transport again\n"))
        reads, registers, failed, complaint = await self.asked(reload)
        self.assertEqual((reads, registers, failed), (True, True, True))
        self.assertIn("no answer from", complaint)
        self.assertFalse(await self.asked(lambda tor: tor.network_disabled))
        await self.asked(lambda tor: tor.shut_down())
        self.tor.send_signal(signal.SIGINT)  # a relay waits for its clients, unless it is told twice
        self.assertEqual(await deferToThread(self.tor.wait), 0)
        error = await self.assertFailure(deferToThread(ask_tor, self.control), TorUnreachable)
        self.assertTrue(getattr(error, "missing", False))

    async def test_who_may_not_ask_is_told_what_to_do(self) -> None:
        """Where the cookie cannot be read, it is said; where a password is wanted, too."""
        (self.directory / "cookie").unlink()
        error = await self.assertFailure(deferToThread(ask_tor, self.control), TorUnreachable)
        self.assertIn("run this command as root", str(error))
        self.assertFalse(getattr(error, "missing", True))
        self.assertIsInstance(await Watch(reactor, self.control).look(), TorUnseen)


class WatchTests(RunningTorCase):
    """`Watch`, and a link to the ORPort."""

    async def test_what_is_seen(self) -> None:
        """Version, progress and ORPort; then what tor complains of, without addresses; at last, that it ended."""
        watch = Watch(reactor, self.control)
        self.addCleanup(watch.close)
        seen = await watch.look()
        assert isinstance(seen, TorSeen), seen
        self.assertRegex(seen.version, r"^0\.4\.\d+\.\d+")
        self.assertEqual((seen.or_connections, seen.complaints, seen.or_port_answers), (0, (), True))
        self.assertIn(seen.bootstrapped, range(100))
        (self.directory / "go").touch()
        while not seen.complaints:
            await deferLater(reactor, 0.02)
            again = await watch.look()
            assert isinstance(again, TorSeen), again
            seen = again
        self.assertIn("no answer from [scrubbed] nor [scrubbed]", seen.complaints[0])
        self.tor.kill()
        await deferToThread(self.tor.wait)
        self.assertIsInstance(await watch.look(), TorUnseen)
        for nowhere in ("nonsense", "127.0.0.1:1", "[::1]:1", "unix:/nothing"):
            self.assertIsInstance(await Watch(reactor, nowhere).look(), TorUnseen)

    async def test_its_or_port_proves_who_it_is(self) -> None:
        """The fingerprint is the one that it tells at its control port."""
        told = await deferToThread(ask_tor, self.control)
        host, _, port = told.or_listeners[0].rpartition(":")
        asked: Deferred[Any] = Deferred()
        over: Deferred[None] = Deferred()
        link: Any = await TCP4ClientEndpoint(reactor, host, int(port)).connect(asking(asked, over))
        relay = await asked
        self.assertEqual(relay.fingerprint, await self.asked(lambda tor: tor.fingerprint))
        link.end()
        await over
