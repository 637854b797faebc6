"""Tests that tokens which another program takes from the kernel, or adds, are put right, with real packets."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kernel.test_gate import wait_for
from tests.kernel.test_spent import PORT, AnyGate
from tests.support.bridge import GREETING

TABLE = f"inet torknock-{PORT}"


class Elements(AnyGate):
    """Another program of root's changes elements, and leaves the rules as they are."""

    n = 8

    def nft(self, *words: str) -> str:
        return self.bridge.run(["nft", *words]).stdout

    def held(self) -> int:
        return self.nft("list", "set", *TABLE.split(), "tokens").count("expires")

    def test_flushed_tokens(self) -> None:
        """All are gone at once: the present epoch's open again, and what was spent does not."""
        spent, before = self.spent(), self.held()
        self.nft("flush", "set", *TABLE.split(), "tokens")
        self.assertTrue(wait_for(lambda: self.held() == before, 3), f"{self.held()} of {before}")
        self.assertEqual(self.knock(spent), self.closed)
        self.assertTrue(self.opens())

    def test_deleted_tokens(self) -> None:
        """One is gone."""
        before, token = self.held(), next(self.fresh)
        self.nft("delete", "element", *TABLE.split(), "tokens", "{", str(token), "}")
        self.assertTrue(wait_for(lambda: self.held() == before, 3))
        self.assertEqual(self.knock(token), GREETING)

    def test_flushed_claims(self) -> None:
        """The kernel has forgotten what was used: it is refused as before."""
        spent, before = self.spent(), self.held()
        self.nft("flush", "set", *TABLE.split(), "claimed")
        self.assertEqual(self.knock(spent), self.closed)
        self.assertTrue(wait_for(self.opens, 3))
        self.assertEqual(self.held(), before - 1)

    def test_added_tokens(self) -> None:
        """What the bridge did not admit is taken out."""
        self.nft("add", "element", *TABLE.split(), "tokens", "{ 4711 timeout 600s }")
        self.assertTrue(wait_for(lambda: "4711" not in self.nft("list", "set", *TABLE.split(), "tokens"), 3))

    def test_changes_that_are_none_of_ours(self) -> None:
        """Another table is added, with tokens used and not: the gate is not made again."""
        self.spent()
        said = len(self.hidden.said)
        for number in range(3):
            self.nft("add", "table", "inet", f"others-{number}")
            self.assertTrue(self.opens())
        self.assertFalse(wait_for(lambda: len(self.hidden.said) > said, 2), self.hidden.said[said:])


class OwnGateElementsTests(Elements):
    """With CAP_NET_ADMIN."""


class ServiceElementsTests(Elements):
    """By `torknock gate`."""

    def where(self) -> Path:
        return self.path


Elements.skip = "the gates are subclasses"
for concrete in (OwnGateElementsTests, ServiceElementsTests):
    concrete.skip = None if os.geteuid() == 0 else "network namespaces need root"
