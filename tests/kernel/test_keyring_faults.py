"""Tests of what befalls a bridge's keyring: a disk full or read-only, a backup. Real file systems and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, TORKNOCK, HiddenService, connected, knock
from tests.support.disk import fill
from tests.support.netns import Lab, end
from torknock.cli import torknock
from torknock.keyring.lines import Keyring
from torknock.protocol.bridge_line import Channel
from torknock.protocol.token import epoch_at

needs_root = None if os.geteuid() == 0 else "file systems and network namespaces need root"

WHERE = ["--address", "192.0.2.7:443", "--fingerprint", "0" * 40]


HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""
"""A program that holds a database from when it says so until its stdin ends."""


class Mounted(SynchronousTestCase):
    """A small file system."""

    skip = needs_root
    timeout = 120

    def setUp(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(self.place.rmdir)
        self.mount("-t", "tmpfs", "-o", "size=256k,mode=700", "none")
        self.addCleanup(subprocess.run, ["umount", "--lazy", str(self.place)], check=True)
        self.keyring = self.place / "torknock"

    def mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.place)], check=True)

    def fill(self) -> Path:
        """Take all the room there is."""
        return fill(self.place)


class CommandTests(Mounted):
    """What an operator is told."""

    def add(self, name: str) -> str:
        return CliRunner().invoke(torknock, ["line", "add", name, "--keyring", str(self.keyring), *WHERE]).output

    def assert_said(self, said: str, *words: str) -> None:
        self.assertEqual(len(said.splitlines()), 1, said)
        self.assertNotIn("backup", said)
        self.assertNotIn("Traceback", said)
        for word in words:
            self.assertIn(word, said)

    def test_a_full_disk(self) -> None:
        """Room is wanting, not a backup: for a keyring that is there, and for one that is to be made."""
        filler = self.fill()
        self.assert_said(self.add("alice"), "make room")
        filler.unlink()
        self.assertTrue(self.add("alice").startswith("Bridge"))
        filler = self.fill()
        self.assert_said(self.add("bob"), "full", "make room")
        filler.unlink()
        self.assertTrue(self.add("bob").startswith("Bridge"))

    def test_a_read_only_file_system(self) -> None:
        """For a keyring that is there, and for one that is to be made."""
        self.mount("-o", "remount,ro")
        self.assert_said(self.add("alice"), "mount")
        self.mount("-o", "remount,rw")
        self.assertTrue(self.add("alice").startswith("Bridge"))
        self.mount("-o", "remount,ro")
        self.assert_said(self.add("bob"), "mount")
        revoked = CliRunner().invoke(torknock, ["line", "revoke", "alice", "--keyring", str(self.keyring)])
        self.assert_said(revoked.output, "mount")


class BridgeTests(Mounted):
    """What a running bridge does meanwhile and afterwards."""

    def setUp(self) -> None:
        super().setUp()
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        with Keyring.open(self.keyring, create=True) as keyring:
            line = keyring.add("alice", n=1024, channel=Channel.RAW, expires=None, now=time.time()).line
        self.fresh = iter(line.tokens(epoch_at(time.time())))

    def start(self) -> HiddenService:
        service = HiddenService(self.bridge, directory=self.place)
        self.addCleanup(service.close)
        return service

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, 443, next(self.fresh)) == GREETING

    def test_a_copy_that_was_put_back_is_taken_up(self) -> None:
        """The file is another, the bridge's key the same; what is revoked in it is heard."""
        service = self.start()
        self.assertTrue(wait_for(self.opens), service.said)
        file, away = self.keyring / "keyring.sqlite", self.place / "backup"
        shutil.copy(file, away)
        file.unlink()
        self.assertTrue(wait_for(lambda: not self.opens()))
        shutil.copy(away, file)
        self.assertTrue(wait_for(self.opens), service.said)
        with Keyring.open(self.keyring, create=False) as keyring:
            keyring.revoke("alice", time.time())
        self.assertTrue(wait_for(lambda: not self.opens()))

    def test_a_copy_that_lacks_a_line_in_use(self) -> None:
        """The connection of that line lives on, and the others' lines open as before."""
        service = self.start()
        file, away = self.keyring / "keyring.sqlite", self.place / "backup"
        shutil.copy(file, away)
        bob = service.line("bob", time.time()).line
        time.sleep(2)
        self.assertEqual(self.held(bob.tokens(epoch_at(time.time()))[0]), GREETING)
        away.replace(file)
        time.sleep(2)
        self.assertTrue(wait_for(self.opens), service.said)
        self.assertFalse([told for told in service.said if "port is closed" in told], service.said)

    def held(self, isn: int) -> bytes:
        connection = connected(self.client, self.bridge.address, 443, isn)
        self.addCleanup(connection.close)
        return connection.recv(len(GREETING))

    def test_the_keyring_of_another_bridge(self) -> None:
        """Its lines have another key: it is said, and the port stays closed until the bridge's own is back."""
        service = self.start()
        self.assertTrue(wait_for(self.opens), service.said)
        away = self.place / "away"
        self.keyring.rename(away)
        Keyring.open(self.keyring, create=True).close()
        self.assertTrue(wait_for(lambda: any("another bridge" in told for told in service.said)), service.said)
        self.assertFalse(self.opens())
        shutil.rmtree(self.keyring)
        away.rename(self.keyring)
        self.assertTrue(wait_for(self.opens), service.said)

    def hold(self, begin: str = "BEGIN EXCLUSIVE") -> subprocess.Popen[str]:
        """Another process that holds the keyring, as a backup does."""
        command = [sys.executable, "-c", HOLDER, str(self.keyring / "keyring.sqlite"), begin]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(end, [holder])
        assert holder.stdout is not None
        self.assertEqual(holder.stdout.readline(), "held\n")
        return holder

    def about_the_keyring(self, service: HiddenService) -> list[str]:
        return [told for told in service.said if "keyring" in told or "Traceback" in told]

    def test_another_process_holds_it(self) -> None:
        """Clients get in all the while; it is said once, and once that it is over. A revocation waits, then counts."""
        service = self.start()
        self.assertTrue(wait_for(self.opens), service.said)
        holder = self.hold()
        self.assertTrue(wait_for(lambda: bool(self.about_the_keyring(service))), service.said)
        for _ in range(10):
            self.assertEqual(knock(self.client, self.bridge.address, 443, next(self.fresh), 5.0), GREETING)
        revoke = [TORKNOCK, "line", "revoke", "alice", "--keyring", str(self.keyring)]
        revoking = subprocess.Popen(revoke, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(end, [revoking])
        assert revoking.stderr is not None
        self.assertIn("waiting for the keyring", revoking.stderr.readline())
        self.assertIsNone(holder.poll())
        holder.communicate()
        self.assertEqual(revoking.communicate(timeout=20), ("alice is revoked\n", ""))
        self.assertTrue(wait_for(lambda: not self.opens()), service.said)
        self.assertTrue(wait_for(lambda: len(self.about_the_keyring(service)) == 2), service.said)
        held, over = self.about_the_keyring(service)
        self.assertIn("another program", held)
        self.assertIn("can be used again", over)

    def test_a_start_while_another_process_holds_it(self) -> None:
        """The port stays closed, and opens by itself once it can be read; nobody who ends the bridge waits."""
        holder = self.hold()
        service = self.start()
        self.assertFalse(self.opens())
        self.assertEqual(len([told for told in service.said if "port closed" in told and "wait until" in told]), 1)
        service.process.terminate()
        self.assertEqual(service.process.wait(10), 0)
        service.start()
        holder.communicate()
        self.assertTrue(wait_for(self.opens, 15), service.said)

    def test_another_process_is_about_to_write(self) -> None:
        """That hinders neither the bridge nor who is to be let in."""
        holder = self.hold("BEGIN IMMEDIATE")
        service = self.start()
        self.assertTrue(wait_for(self.opens), service.said)
        service.process.terminate()
        self.assertEqual(service.process.wait(10), 0)
        self.assertIsNone(holder.poll())

    def test_a_start_while_it_is_read_only(self) -> None:
        """tor would not start the transport again: it waits, closed, and opens by itself."""
        self.mount("-o", "remount,ro")
        service = self.start()
        self.assertFalse(self.opens())
        self.assertTrue(any("port closed" in told and "mount" in told for told in service.said), service.said)
        within = ["nsenter", f"--mount=/proc/{service.process.pid}/ns/mnt"]  # where it is a mount of its own
        subprocess.run([*within, "mount", "-o", "remount,rw", str(self.place)], check=True)
        self.assertTrue(wait_for(self.opens, 15), service.said)

    def test_it_ends_while_it_waits(self) -> None:
        """As tor wants it, at once."""
        self.mount("-o", "remount,ro")
        service = self.start()
        service.process.terminate()
        self.assertEqual(service.process.wait(10), 0)
