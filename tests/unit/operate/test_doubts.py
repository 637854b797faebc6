"""Tests of `torknock.operate.firewall.doubts`: which rules a copy of them does not tell about."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.privileged.gate.test_translation import DNAT, JSON, OF, WORDS, dport, meta, payload
from torknock.operate.firewall.doubts import MARK, counting, doubtful


def rule(*statements: dict[str, Any]) -> list[dict[str, Any]]:
    """A ruleset of one rule."""
    return [{"rule": OF | {"handle": 7, "expr": list(statements)}}]


class NftablesTests(SynchronousTestCase):
    """Rules of nftables."""

    def test_rules_that_depend_on_a_syn_alone_are_in_no_doubt(self) -> None:
        """What depends on nothing but a SYN's addresses, port, flags and interface."""
        understood: tuple[dict[str, Any], ...] = (
            dport({"set": [1, {"range": [2, 3]}]}), meta("iifname", "eth0"), DNAT, {"accept": None},
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 7}}, {"limit": {"rate": 1, "per": "day"}},
            {"log": {"prefix": "x"}},
        )  # fmt: skip
        for statement in understood:
            self.assertEqual(doubtful(rule(statement)), [], statement)

    def test_other_rules_are_in_doubt_under_their_conditions(self) -> None:
        """Each kind, alone and within another, is in doubt under the conditions that stand before it."""
        random = {"numgen": {"mode": "random", "mod": 2}}
        strange: tuple[dict[str, Any], ...] = (
            {"queue": {"num": 7}}, {"tproxy": {"addr": "127.0.0.1"}}, {"fwd": {"dev": "eth0"}}, {"dup": {"addr": "a"}},
            {"quota": {"val": 1}}, {"xt": None}, {"statement of tomorrow": {}}, payload("ip", "ttl", 17),
            payload("tcp", "sport", 7), {"match": {"op": "==", "left": random, "right": 0}}, {"match": 7}, {"vmap": {}},
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": random}}, {"a": 1, "b": 2},
            {"dnat": {"addr": {"map": {"key": random, "data": {"set": []}}}}},
            {"match": {"op": "==", "left": {"&": [{"socket": {"key": "mark"}}, 1]}, "right": 1}},
            {"set": {"op": "add", "elem": "x", "stmt": [{"quota": {"val": 1}}]}},
        )  # fmt: skip
        for statement in strange:
            [found] = doubtful(rule(dport(443), {"counter": None}, statement, meta("mark", 7)))
            self.assertEqual(found.conditions[0], dport(443), statement)
            self.assertEqual((found.place, found.handle), (("ip", "nat", "PREROUTING"), 7))

    def test_conditions_behind_a_change_are_left_out(self) -> None:
        """They may ask for what the rule itself has set."""
        [found] = doubtful(rule({"mangle": {"key": 7, "value": 7}}, meta("mark", 7), {"queue": {"num": 7}}))
        self.assertEqual(found.conditions, [])

    def test_rules_that_no_syn_meets(self) -> None:
        """Those of other hooks are left out; a chain without a hook may be reached."""
        for hook, count in (("output", 0), ("forward", 0), ("input", 1), (None, 1)):
            chain = {"family": "ip", "table": "nat", "name": "PREROUTING"} | ({"hook": hook} if hook else {})
            self.assertEqual(len(doubtful([{"chain": chain}, *rule({"queue": {}})])), count, hook)

    @settings(max_examples=40)
    @given(st.lists(st.dictionaries(st.sampled_from(["match", "vmap", "accept", "jump", "dnat"]), JSON)))
    def test_rules_of_any_shape_raise_nothing(self, statements: list[Any]) -> None:
        """JSON of any shape raises nothing."""
        self.assertLessEqual(len(doubtful(rule(*json.loads(json.dumps(statements))))), 1)


class IptablesTests(SynchronousTestCase):
    """Rules of iptables."""

    def counted(self, *rules: str) -> tuple[list[str], list[str]]:
        """The rules as they are restored, and what is in doubt."""
        saved = "*filter\n:INPUT DROP [0:0]\n:own - [0:0]\n" + "\n".join(f"-A {it}" for it in rules)
        told = counting(saved, "iptables")
        return [line for line in told.text.split("\n") if line.startswith("-A")], told.doubts

    def test_rules_in_no_doubt_are_not_changed(self) -> None:
        """Octet for octet."""
        rules = [
            'INPUT -p tcp -m comment --comment "a \\" b" -m tcp --dport 22 -j own', "own ! -i eth0 -j REJECT",
            "INPUT -p tcp -m conntrack --ctstate NEW -m recent --update --seconds 30 --name seen -j DROP",
            'own -m limit --limit 3/min -j LOG --log-prefix "[a] "', "INPUT -p udp", "OUTPUT -j ACCEPT",
        ]  # fmt: skip
        self.assertEqual(self.counted(*rules), ([f"-A {rule}" for rule in rules], []))

    def test_what_is_not_understood_is_counted(self) -> None:
        """In its place, under the conditions that are understood; it is named as it was."""
        count = f"-m comment --comment {MARK}0"
        for it, conditions in (
            ("INPUT -p tcp -m tcp --dport 443 -j NFQUEUE --queue-num 7", "INPUT -p tcp -m tcp --dport 443"),
            ("INPUT ! -s 10.0.0.0/8 -m set --match-set bad src -j DROP", "INPUT ! -s 10.0.0.0/8"),
            ("INPUT -m set --set bad -i eth0 -j DROP", "INPUT -i eth0"),
            ('own -p tcp -m comment --comment "a b" -m socket -j DROP', "own -p tcp"),
            ("INPUT -m ttl --ttl-eq 17 -p tcp -j ACCEPT", "INPUT -p tcp"),
            ("INPUT -j", "INPUT"),
        ):
            self.assertEqual(self.counted(it), ([f"-A {conditions} {count}"], [f"iptables -t filter -A {it}"]))

    def test_what_no_syn_meets_is_left_out(self) -> None:
        """In chains that are not on its way."""
        self.assertEqual(self.counted("OUTPUT -m owner --uid-owner 7 -j ACCEPT"), ([], []))

    @given(st.lists(st.lists(st.sampled_from(WORDS), max_size=8), max_size=5))
    def test_rules_of_any_shape_raise_nothing(self, rules: list[list[str]]) -> None:
        """Nothing is raised, and nothing is in doubt once it is counted."""
        saved = "*filter\n:INPUT DROP [0:0]\n" + "".join(f"-A INPUT {' '.join(it)}\n" for it in rules)
        told = counting(saved, "iptables")
        self.assertEqual(counting(told.text, "iptables").doubts, [])
