"""Tests of a bridge that lacks descriptors, processes, memory or `nft`: closed, said once, and open by itself again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import SERVICE, GuardedCase, needs_root
from tests.support.bridge import GREETING, HiddenService, connected, fresh, knock
from tests.support.netns import Lab
from torknock.kernel.descriptor_limit import OF_A_CLIENT, places


class LackingTests(SynchronousTestCase):
    """A bridge that guards its port itself."""

    skip = needs_root
    timeout = 120

    def setUp(self) -> None:
        self.lab = Lab()
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")

    def hide(self, *before: str) -> None:
        """Start the bridge behind the command *before*, with a line of many tokens."""
        self.hidden = HiddenService(self.bridge, before=before)
        self.addCleanup(self.hidden.close)
        self.fresh = fresh(self.hidden.line("alice", time.time() - 7200, n=256))
        self.assertTrue(wait_for(self.opens), self.hidden.said)

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, 443, next(self.fresh), 1.0) == GREETING

    def said(self, text: str) -> int:
        """How many lines of tor's log have *text*."""
        return sum(text in line for line in self.hidden.said)

    def greeted(self) -> socket.socket | None:
        """A connection that was served; None if it was ended without a word."""
        with contextlib.suppress(ConnectionResetError):
            connection = connected(self.client, self.bridge.address, 443, next(self.fresh))
            with contextlib.ExitStack() as undo:
                undo.enter_context(connection)
                if connection.recv(len(GREETING)) == GREETING:
                    undo.pop_all()
                    return connection
        return None

    def test_more_clients_than_descriptors(self) -> None:
        """Those who are in stay; who comes then is reset; the gate is kept; and who comes later is let in."""
        self.hide("prlimit", "--nofile=256:256")
        room = places(256, OF_A_CLIENT)
        came = [self.greeted() for _ in range(250)]
        for connection in came:
            if connection is not None:
                self.addCleanup(connection.close)
        served = [connection for connection in came if connection is not None]
        self.assertEqual([connection is not None for connection in came], [True] * room + [False] * (250 - room))
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(lambda: "torknock-443" in self.bridge.run(["nft", "list", "tables"]).stdout))
        for connection in served:
            connection.sendall(b"still here")
            self.assertEqual(connection.recv(10), b"still here")
            connection.close()
        self.assertTrue(wait_for(self.opens), self.hidden.said)
        self.assertEqual((self.said("connections turned away"), self.said("LimitNOFILE=")), (1, 1))
        self.assertTrue(wait_for(lambda: self.said("connections accepted again") == 1), self.hidden.said)
        self.assertEqual((self.said("port closed"), self.said("Too many open files")), (0, 0))

    def test_no_nft_for_a_while(self) -> None:
        """As while the package is replaced."""
        self.hide("unshare", "--mount")
        nft = shutil.which("nft")
        assert nft is not None
        inside = ["nsenter", f"--mount=/proc/{self.hidden.process.pid}/ns/mnt"]
        subprocess.run([*inside, "mount", "--bind", "/dev/null", nft], check=True)
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(lambda: self.said("port closed: the command nft is missing") == 1), self.hidden.said)
        self.assertFalse(self.opens())
        subprocess.run([*inside, "umount", nft], check=True)
        self.assertTrue(wait_for(self.opens), self.hidden.said)
        self.assertEqual((self.said("port closed"), self.said("the tokens run out")), (1, 1))


class ServiceTests(GuardedCase):
    """A bridge without power, whose gate service lacks something."""

    tokens = 256

    def test_no_processes_and_no_descriptors(self) -> None:
        """When another program has flushed the rules; each is said once."""
        for what, low, said in (
            ("nproc", 0, "nft cannot be started: Resource temporarily unavailable"),
            ("nofile", 4, "Too many open files"),
        ):
            with self.subTest(lacks=what):
                self.limit(what, low)
                self.bridge.run(["nft", "flush", "ruleset"])
                self.assertTrue(wait_for(lambda: said in self.told()), (self.hidden.said, self.log))  # noqa: B023  at once
                self.assertFalse(self.opens())
                self.limit(what, 1_000)
                self.assertTrue(wait_for(self.opens, 20), (self.hidden.said, self.log))
                closed = [line for line in self.hidden.said if "port closed" in line and said in line]
                self.assertEqual(len(closed), 1, self.hidden.said)
        self.assertNotIn("Traceback", self.log)

    def limit(self, what: str, soft: int) -> None:
        """Give the service, as its own user may, another limit."""
        itself = ["setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups"]
        subprocess.run([*itself, "prlimit", f"--pid={self.service.pid}", f"--{what}={soft}:"], check=True)

    def told(self) -> str:
        """What tor's log has of the transport."""
        return "\n".join(self.hidden.said)
