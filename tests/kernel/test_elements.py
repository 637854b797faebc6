"""Tests that tokens which another program takes from the kernel, or adds, are put right, with real packets."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import GREETING, TORKNOCK, HiddenService, knock
from torknock.protocol.token import epoch_at, tokens

PORT = 8443
TABLE = f"inet torknock-{PORT}"


class Elements(Case):
    """Another program of root's changes elements, and leaves the rules as they are."""

    def setUp(self) -> None:
        super().setUp()
        self.hidden = HiddenService(self.bridge, f"0.0.0.0:{PORT}", helper=self.where())
        self.addCleanup(self.hidden.close)
        line = self.hidden.line("alice", time.time() - 7200, n=16).line
        present = epoch_at(time.time())
        self.fresh = (
            token
            for epoch in (present, present + 1, present - 1)
            for token in tokens(line.secret, line.bridge_name, epoch, line.n)
        )
        self.assertTrue(wait_for(self.opens), self.hidden.said)

    def where(self) -> Path | None:
        return None

    def knock(self, token: int) -> bytes | str:
        return knock(self.client, self.bridge.address, PORT, token)

    def opens(self) -> bool:
        return self.knock(next(self.fresh)) == GREETING

    def spent(self) -> int:
        """A token that has opened a connection, and opens no other."""
        token = next(self.fresh)
        self.assertEqual(self.knock(token), GREETING)
        self.assertEqual(self.knock(token), "refused")
        return token

    def nft(self, *words: str) -> str:
        return self.bridge.run(["nft", *words]).stdout

    def held(self) -> int:
        return self.nft("list", "set", *TABLE.split(), "tokens").count("expires")

    def told(self) -> dict[str, Any]:
        """The status of the bridge."""
        keyring = str(self.hidden.state / "torknock")
        told: dict[str, Any] = json.loads(self.bridge.run([TORKNOCK, "status", "--json", "--keyring", keyring]).stdout)
        return told

    def is_back(self, held: int) -> bool:
        """Whether there is a table with so many tokens."""
        return TABLE in self.nft("list", "tables") and self.held() == held

    def is_said(self) -> bool:
        return any("gate table missing or changed" in told for told in self.hidden.said)

    def test_tokens_that_were_flushed_open_again(self) -> None:
        """All are gone at once: the present epoch's open again, and what was spent does not."""
        spent, before = self.spent(), self.held()
        self.nft("flush", "set", *TABLE.split(), "tokens")
        self.assertTrue(wait_for(lambda: self.held() == before), f"{self.held()} of {before}")
        self.assertEqual(self.knock(spent), "refused")
        self.assertTrue(self.opens())

    def test_a_token_that_was_deleted_opens_again(self) -> None:
        """One is gone."""
        before, token = self.held(), next(self.fresh)
        self.nft("delete", "element", *TABLE.split(), "tokens", "{", str(token), "}")
        self.assertTrue(wait_for(lambda: self.held() == before))
        self.assertEqual(self.knock(token), GREETING)

    def test_the_status_counts_what_the_kernel_holds(self) -> None:
        """Also once a token was used, and once all were put back."""
        self.assertEqual(self.told()["held"], self.held())
        self.spent()
        self.nft("flush", "set", *TABLE.split(), "tokens")
        self.assertTrue(wait_for(lambda: (told := self.told())["held"] == self.held() == told["tokens"], 12))
        self.assertEqual(self.told()["warnings"], [])

    def test_what_was_used_is_refused_after_the_claims_were_flushed(self) -> None:
        """The kernel has forgotten what was used: it is refused as before."""
        spent, before = self.spent(), self.held()
        self.nft("flush", "set", *TABLE.split(), "claimed")
        self.assertEqual(self.knock(spent), "refused")
        self.assertTrue(wait_for(self.opens))
        self.assertEqual(self.held(), before - 1)

    def test_tokens_of_another_program_are_taken_out(self) -> None:
        """What the bridge did not admit is taken out."""
        self.nft("add", "element", *TABLE.split(), "tokens", "{ 4711 timeout 600s }")
        self.assertTrue(wait_for(lambda: "4711" not in self.nft("list", "set", *TABLE.split(), "tokens")))

    def test_a_table_that_was_removed_is_back_with_its_tokens(self) -> None:
        """The whole table is gone, alone or with all others: it is back with its tokens, and each time that is said."""
        spent, before = self.spent(), self.held()
        for words in (["delete", "table", *TABLE.split()], ["flush", "ruleset"]):
            self.hidden.said.clear()
            self.nft(*words)
            self.assertTrue(wait_for(lambda: self.is_back(before), 3), words)
            self.assertEqual(self.knock(spent), "refused")
            self.assertTrue(wait_for(self.is_said, 3), self.hidden.said)
        self.assertTrue(self.opens())

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


del Elements  # trial runs what a module holds: the gates are its subclasses
