"""Tests of torknock.gate.ruleset: the text. That it does what it says is shown with packets, in `tests.kernel`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.gate.ruleset import Door, admit, listing, load, remove, withdraw


class RulesetTests(SynchronousTestCase):
    """What nft is told."""

    def test_both_wildcards_are_one_door(self) -> None:
        """Two processes that would guard every address know each other by the table's name."""
        self.assertEqual(Door("0.0.0.0", 443, 1, 2).table, "torknock-443")  # noqa: S104  compared, not bound
        self.assertEqual(Door("::", 443, 1, 2).table, "torknock-443")

    def test_a_door_of_one_address_has_a_table_of_its_own(self) -> None:
        """Two bridges on one host do not take each other's table away; nft has no `:` in names."""
        self.assertEqual(Door("192.0.2.7", 443, 1, 2).table, "torknock-192.0.2.7-443")
        self.assertEqual(Door("2001:db8::7", 443, 1, 2).table, "torknock-2001.db8..7-443")

    def test_a_predecessors_table_is_replaced_in_one_transaction(self) -> None:
        """There is no moment in which two tables, or half of one, stand."""
        door = Door("::", 443, 1, 2)
        self.assertEqual(
            load(door), "add table inet torknock-443\ndelete table inet torknock-443\n" + listing(door)
        )

    def test_no_answer_is_given_by_a_rule(self) -> None:
        """Neither `reject` nor `drop`: the kernel answers for the port, and for nobody's sake differently."""
        words = listing(Door("::", 443, 1, 2)).split()
        self.assertFalse({"reject", "drop", "log", "redirect", "dnat"} & set(words))

    def test_a_token_is_spent_before_the_syn_goes_on(self) -> None:
        """`delete` stands before `tproxy`, in the same chain."""
        text = listing(Door("::", 443, 1, 2))
        self.assertLess(text.index("delete @tokens"), text.index("tproxy ip to 127.0.0.1:1 accept"))
        self.assertIn("tproxy ip6 to [::1]:2 accept", text)

    def test_a_door_of_one_address_lets_other_addresses_be(self) -> None:
        """A port of another address of this host may be served by somebody."""
        self.assertIn("ip daddr 192.0.2.7 tcp dport 443", listing(Door("192.0.2.7", 443, 1, 2)))
        self.assertIn("ip6 daddr 2001:db8::7 tcp dport 443", listing(Door("2001:db8::7", 443, 1, 2)))

    def test_tokens_are_admitted_with_their_time(self) -> None:
        """When nobody refreshes the gate, it closes by itself."""
        self.assertEqual(
            admit("torknock-443", [1, 4294967295], 600),
            "add element inet torknock-443 tokens { 1 timeout 600s, 4294967295 timeout 600s }\n",
        )

    def test_tokens_are_withdrawn_whether_they_are_there_or_not(self) -> None:
        """nft fails a transaction that deletes what was spent a moment ago."""
        self.assertEqual(
            withdraw("torknock-443", [1, 2]),
            "add element inet torknock-443 tokens { 1, 2 }\ndelete element inet torknock-443 tokens { 1, 2 }\n",
        )

    def test_a_table_is_removed_whether_it_is_there_or_not(self) -> None:
        """Somebody may have flushed it before us."""
        self.assertEqual(remove("torknock-443"), "add table inet torknock-443\ndelete table inet torknock-443\n")
