"""Tests of torknock.service.ruleset: the text; `tests.kernel` shows with packets what it does."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.door import Door, Posture
from torknock.service.posture_table import load_posture, posture_listing
from torknock.service.ruleset import (
    HiddenPorts,
    Judging,
    admit,
    admitted,
    listing,
    load,
    queue_number,
    remove,
    rest,
    withdraw,
    xtables,
)

HIDDEN = HiddenPorts(1, 2)


def rules(text: str, name: str) -> list[str]:
    """The lines of the chain that is called so."""
    chain = text[text.index(f"chain {name} ") :]
    return [rule.strip() for rule in chain[: chain.index("\t}")].splitlines()[1:] if rule.strip()]


def prerouting(text: str) -> list[str]:
    """The rules of the chain that sees packets first."""
    return rules(text, "prerouting")[1:]


class RulesetTests(SynchronousTestCase):
    """What nft is told."""

    def test_without_ipv6_nothing_is_taken_to_a_listener_of_it(self) -> None:
        """Its SYNs, should any come, go on to a port on which nothing listens."""
        self.assertNotIn("tproxy ip6", listing(Door("::", 443), HiddenPorts(1, None), Judging.QUEUE))

    def test_a_predecessors_table_is_replaced_in_one_transaction(self) -> None:
        """There is no moment in which two tables, or half of one, stand."""
        door = Door("::", 443)
        replaced = "add table inet torknock-443\ndelete table inet torknock-443\n"
        self.assertTrue(load(door, HIDDEN).endswith(replaced + listing(door, HIDDEN)))

    def test_no_answer_is_given_by_a_rule(self) -> None:
        """Neither `reject` nor `drop`: the kernel answers for the port, and for nobody's sake differently."""
        words = listing(Door("::", 443), HIDDEN).split()
        self.assertFalse({"reject", "drop", "log", "redirect", "dnat"} & set(words))

    def test_a_token_is_claimed_and_spent_before_the_syn_goes_on(self) -> None:
        """In one rule, which does not match if another SYN has claimed it or the set of claims is full."""
        for host, to in (("::", "tcp dport 443"), ("192.0.2.7", "ip daddr 192.0.2.7 tcp dport 443")):
            text = listing(Door(host, 443), HIDDEN)
            self.assertIn(
                f"\t\t{to} fib daddr type local add @claimed {{ tcp sequence limit rate 1/day burst 1 packets }}"
                " delete @tokens { tcp sequence } goto admitted\n\t}",
                text,
            )
            self.assertIn("tproxy ip to 127.0.0.1:1 accept", text)
            self.assertIn("tproxy ip6 to [::1]:2 accept", text)

    def test_every_syn_walks_the_same_rules(self) -> None:
        """Nothing asks for address or port before the token is looked up, and chance picks what is counted."""
        for host in ("::", "192.0.2.7"):
            for rule in prerouting(listing(Door(host, 443), HIDDEN)):
                self.assertRegex(rule, "^tcp flags syn / fin,syn,rst,ack (tcp sequence @tokens|numgen random) ")

    def test_one_of_64_syns_to_the_door_without_a_token_is_counted(self) -> None:
        """And none that this host only forwards, or that goes to another port."""
        text = listing(Door("::", 443), HIDDEN)
        self.assertEqual(prerouting(text)[-1], "tcp flags syn / fin,syn,rst,ack numgen random mod 64 0 jump sample")
        counted = 'fib daddr type local tcp dport 443 counter name "refused"'
        self.assertEqual(rules(text, "sample"), [counted])

    def test_no_source_is_remembered(self) -> None:
        """What is counted for a source can be counted in its name by others."""
        for judging in (None, *Judging):
            self.assertNotIn("saddr", listing(Door("::", 443), HIDDEN, judging))

    def test_a_door_of_one_address_lets_other_addresses_be(self) -> None:
        """A port of another address of this host may be served by somebody."""
        self.assertIn("ip daddr 192.0.2.7 tcp dport 443", listing(Door("192.0.2.7", 443), HIDDEN))
        self.assertIn("ip6 daddr 2001:db8::7 tcp dport 443", listing(Door("2001:db8::7", 443), HIDDEN))

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


class PostureTests(SynchronousTestCase):
    """The table that makes a port look filtered."""

    door = Door("::", 443, Posture.FILTERED)

    def test_it_drops_in_the_input_hook(self) -> None:
        """Where the firewalls of hosts do, and after a connection that was let in has been told apart."""
        text = posture_listing(self.door)
        self.assertTrue(text.startswith("table inet torknock-443-posture {\n"))
        self.assertIn("type filter hook input priority filter; policy accept;", text)
        self.assertLess(text.index("tcp dport 443 socket transparent 1 accept"), text.index("tcp dport 443 drop"))
        self.assertIn("ip daddr 192.0.2.7 tcp dport 443 drop", posture_listing(Door("192.0.2.7", 443)))

    def test_its_table_is_never_deleted_to_be_replaced(self) -> None:
        """Neither by the table of tokens that comes, nor by the one that goes, nor by itself."""
        for text in (load_posture(self.door), load(self.door, HIDDEN), rest(self.door)):
            self.assertNotIn("delete table inet torknock-443-posture", text)
            self.assertIn(f"flush table inet torknock-443-posture\n{posture_listing(self.door)}", text)

    def test_the_table_of_tokens_drops_nothing(self) -> None:
        """Whoever replaces it takes no drop away."""
        for judging in (None, *Judging):
            self.assertNotIn("drop", listing(self.door, HIDDEN, judging))
            self.assertIn(posture_listing(self.door), load(self.door, HIDDEN, judging))

    def test_another_posture_removes_it(self) -> None:
        """In the transaction that loads the tokens; a bridge that goes leaves none."""
        for posture in (Posture.CLOSED, Posture.DECOY):
            self.assertIn(remove("torknock-443-posture"), load(Door("::", 443, posture), HIDDEN))
        self.assertEqual(rest(Door("::", 443)), remove("torknock-443"))


class JudgingTests(SynchronousTestCase):
    """What nft and iptables are told when there are knocks to judge."""

    door = Door("::", 443)

    def test_a_syn_without_a_token_is_asked_about(self) -> None:
        """Tokens match first; what is queued goes on to where nothing listens if nobody judges it."""
        text = listing(self.door, HIDDEN, Judging.QUEUE)
        ask = text[text.index("chain ask") : text.index("chain judged")]
        self.assertTrue(ask.rstrip(" \n\t}").endswith(f"queue flags bypass to {queue_number(self.door)}"))
        self.assertLess(text.index("tcp sequence @tokens jump knock"), text.index("jump ask"))

    def test_both_ways_differ_in_the_statement_and_the_priority_alone(self) -> None:
        """Whatever the kernel has, the door does the same."""
        queue, xtables_ = (listing(self.door, HIDDEN, judging).splitlines() for judging in Judging)
        self.assertEqual(
            [line.replace("raw + 1", "mangle + 1") for line in queue if "queue flags" not in line], xtables_
        )

    def test_only_the_judges_mark_opens(self) -> None:
        """What comes back as it went is a miss."""
        text = listing(self.door, HIDDEN, Judging.XTABLES)
        verdict = text[text.index("chain verdict") :].splitlines()
        self.assertEqual(verdict[1].strip(), "meta mark & 0x60000000 != 0x20000000 goto refused")
        self.assertIn("meta mark set meta mark | 0x40000000", text)
        self.assertEqual(admitted(0x40000000), 0x20000000)
        self.assertEqual(rules(text, "refused")[-1], 'counter name "refused"')

    def test_one_with_ip_options_is_counted_and_not_asked_about(self) -> None:
        """The kernel may answer a bad option, and an answer that waits for the judge shows the port."""
        for judging in Judging:
            first = rules(listing(self.door, HIDDEN, judging), "ask")[0]
            self.assertEqual(first, 'ip hdrlength > 5 counter name "refused" return')

    def test_the_mark_that_a_syn_comes_with_does_not_open(self) -> None:
        """It is taken off before anything else; what is only forwarded gets none of ours."""
        first, *_, last = prerouting(listing(self.door, HIDDEN, Judging.QUEUE))
        self.assertEqual(first, "tcp dport 443 tcp flags syn / fin,syn,rst,ack meta mark set meta mark & 0x9fffffff")
        self.assertEqual(last, "tcp dport 443 tcp flags syn / fin,syn,rst,ack fib daddr type local jump ask")

    def test_marks_of_others_stay(self) -> None:
        """We use two bits."""
        self.assertEqual(admitted(0xDFFFFFFF), 0xBFFFFFFF)

    def test_without_a_judge_nothing_is_marked(self) -> None:
        """A bridge that has token lines alone has a gate of tokens alone."""
        for word in ("mark", "queue", "judged"):
            self.assertNotIn(word, listing(self.door, HIDDEN))

    def test_no_answer_is_given_by_a_rule(self) -> None:
        """Neither `reject` nor `drop`."""
        for judging in Judging:
            words = listing(self.door, HIDDEN, judging).split()
            self.assertFalse({"reject", "drop", "log", "redirect", "dnat"} & set(words))

    def test_the_rule_for_iptables(self) -> None:
        """It matches what our table has marked for this door."""
        behind = "-m mark --mark 0x40000000/0x60000000 -m comment --comment"
        self.assertEqual(
            xtables(self.door),
            f"PREROUTING -p tcp -m tcp --dport 443 {behind} torknock-443 -j NFQUEUE --queue-num 18853 --queue-bypass",
        )
        of_one = Door("192.0.2.7", 443)
        self.assertIn("PREROUTING -d 192.0.2.7/32 -p tcp", xtables(of_one))
        self.assertIn("PREROUTING -d 2001:db8::7/128 -p tcp", xtables(Door("2001:db8::7", 443)))
        self.assertNotEqual(queue_number(self.door), queue_number(of_one))
