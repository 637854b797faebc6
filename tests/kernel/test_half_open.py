"""Tests that a token which has had a SYN-ACK has no other, though its handshake was never completed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.capture import Control
from tests.support.netns import end
from tests.support.packets import probe
from torknock.protocol.token import epoch_at, tokens

PORT = 8443
TABLE = ["inet", f"torknock-{PORT}"]


class HalfOpen(Case):
    """An attacker captures SYNs that are answered, keeps the rest of the handshake back, and sends them again."""

    def setUp(self) -> None:
        super().setUp()
        self.hidden = HiddenService(self.bridge, f"0.0.0.0:{PORT}", helper=self.where())
        self.addCleanup(self.hidden.close)
        line = self.hidden.line("alice", time.time() - 7200, n=32).line
        present = epoch_at(time.time())
        self.fresh = (it for at in (0, 1, -1) for it in tokens(line.secret, line.bridge_name, present + at, line.n))
        self.assertTrue(wait_for(self.opens), self.hidden.said)

    def where(self) -> Path | None:
        return None

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, PORT, next(self.fresh), 1.0) == GREETING

    def answered(self, token: int) -> bool:
        """Whether a SYN with *token*, which nothing follows, has a SYN-ACK."""
        told = probe(self.client, self.bridge.address, PORT, seq=token)
        return told is not None and told.control == Control.SYN | Control.ACK

    def half_open(self) -> list[int]:
        found = [next(self.fresh) for _ in range(4)]
        self.assertEqual([self.answered(token) for token in found], [True] * 4)
        return found

    def restart(self, how: signal.Signals) -> None:
        self.hidden.process.send_signal(how)
        self.hidden.process.wait()
        self.hidden.start()

    def assert_none_again(self, found: list[int]) -> None:
        """None of *found* is answered from now on, and others are."""
        gives_up = time.monotonic() + 20
        opened = False
        while not opened and time.monotonic() < gives_up:
            self.assertEqual([token for token in found if self.answered(token)], [])
            opened = self.opens()
        self.assertTrue(opened, self.hidden.said)
        self.assertEqual([token for token in found if self.answered(token)], [])

    def test_the_table_is_loaded_again(self) -> None:
        """Another program has changed its rules."""
        found = self.half_open()
        self.bridge.run(["nft", "add", "chain", *TABLE, "another"])
        self.assertTrue(wait_for(lambda: "another" not in self.bridge.run(["nft", "list", "ruleset"]).stdout, 5))
        self.assert_none_again(found)

    def test_the_tokens_are_flushed(self) -> None:
        """By another program."""
        found = self.half_open()
        self.bridge.run(["nft", "flush", "set", *TABLE, "tokens"])
        self.assert_none_again(found)

    def test_the_transport_starts_again(self) -> None:
        """After a clean end and a sudden one."""
        found = self.half_open()
        for how in (signal.SIGTERM, signal.SIGKILL):
            self.restart(how)
            self.assert_none_again(found)
            found += self.half_open()


class OwnGateHalfOpenTests(HalfOpen):
    """With CAP_NET_ADMIN."""


class ServiceHalfOpenTests(HalfOpen):
    """By `torknock gate`."""

    def where(self) -> Path:
        return self.path

    def test_the_service_starts_again(self) -> None:
        """After a sudden end and a clean one."""
        found = self.half_open()
        for sudden in (True, False):
            if sudden:
                self.service.kill()
                self.service.wait()
            else:
                end([self.service])
            self.service = self.serve()
            self.assert_none_again(found)
            found += self.half_open()


del HalfOpen  # trial runs what a module holds: the gates are its subclasses
