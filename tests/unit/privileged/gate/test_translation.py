"""Tests of `torknock.privileged.gate.translating_rules` and its twin for iptables: which rule takes a SYN."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory_kernel import MemoryKernel
from torknock.privileged.gate.translating_iptables import of_iptables
from torknock.privileged.gate.translating_rules import RulesUnreadable, StrangersSYN, of_nft, takers
from torknock.privileged.gate.translation import taken

STRANGER = StrangersSYN(443, 4, None, "eth0")
OF = {"family": "ip", "table": "nat", "chain": "PREROUTING"}
WORDS = ["-p", "tcp", "!", "-i", "lo", "--dport", "443", "1:2", "-j", "ACCEPT", "x", "-m", "--ctstate", "NEW", "-A",
         "--mark", "0x1/0x2", "--tcp-flags", "SYN", "-s", "10.0.0.0/8", "-d", "'", "--match-set", "-g"]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 70_000) | st.sampled_from(["@own", "tcp", "dport", "==", "!=", "new"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["match", "op", "left", "right", "payload", "protocol", "field", "meta", "key", "set", "vmap",
                         "data", "range", "prefix", "&", "jump", "target", "accept", "elem", "val", "concat", "fib",
                         "limit", "map", "addr", "ct"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def dport(right: object, op: str = "==") -> dict[str, Any]:
    """A condition of nftables."""
    return {"match": {"op": op, "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}


def meta(key: str, right: object, op: str = "==") -> dict[str, Any]:
    """A condition of nftables."""
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def payload(protocol: str, field: str, right: object, op: str = "==") -> dict[str, Any]:
    """A condition of nftables."""
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


DNAT: dict[str, Any] = {"dnat": {"addr": "10.0.0.2", "port": 443}}


class NftablesTests(SynchronousTestCase):
    """Rules of nftables."""

    def takers(self, *rules: list[Any], syn: StrangersSYN = STRANGER, **chains: list[Any]) -> list[str]:
        """What takes a SYN of those *rules* at the hook; *chains* have a rule each."""
        listed = [{"rule": OF | {"handle": number, "expr": expr}} for number, expr in enumerate(rules)]
        listed += [{"rule": OF | {"chain": name, "handle": 9, "expr": expr}} for name, expr in chains.items()]
        return takers(of_nft(listed, syn, {9: "here"}), "PREROUTING")

    def test_a_rule_takes_what_its_conditions_allow(self) -> None:
        """And, where they are not understood, what they may."""
        for conditions in (
            [], [dport(443)], [dport({"set": [80, {"range": [440, 450]}]})], [dport(80, "!=")], [dport(400, ">")],
            [meta("l4proto", "tcp")], [meta("iifname", "eth0")], [meta("iifname", "eth*")],
            [meta("iifname", "docker0", "!=")], [meta("mark", 7)], [payload("ip", "ttl", 17)],
            [payload("ip", "saddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}, "!=")],
            [payload("ip", "daddr", "203.0.113.1")], [{"xt": None}], [{"fib": 7}], [{"limit": {"rate": 1}}],
        ):  # fmt: skip
            self.assertEqual(len(self.takers([*conditions, DNAT])), 1, conditions)

    def test_a_rule_does_not_take_what_its_conditions_exclude(self) -> None:
        """Other ports, protocols, interfaces, sources; loopback; the addresses of others."""
        own = StrangersSYN(443, 4, "198.51.100.7", "eth0")
        for conditions in (
            [dport(80)], [dport({"set": [80, {"range": [444, 450]}]})], [dport(443, "!=")], [dport(443, ">")],
            [payload("udp", "dport", 443)], [payload("udp", "dport", 53, "!=")], [meta("l4proto", "udp")],
            [meta("iifname", "docker0")], [meta("iifname", "lo")], [meta("iifname", "eth0", "!=")],
            [payload("ip", "saddr", "10.0.0.1")], [payload("ip6", "daddr", "2001:db8::1", "!=")],
            [payload("ip", "daddr", {"prefix": {"addr": "127.0.0.0", "len": 8}})],
            [payload("ip", "daddr", "203.0.113.1")], [meta("nfproto", "ipv6")],
            [payload("ip", "daddr", {"prefix": {"addr": "198.51.100.9", "len": 24}}, "!=")],
        ):  # fmt: skip
            self.assertEqual(self.takers([*conditions, DNAT], syn=own), [], conditions)

    def test_what_ends_before_it_is_not_taken(self) -> None:
        """A verdict that certainly comes first, in this chain or in another."""
        for first in ([dport(443), {"accept": None}], [{"jump": {"target": "more"}}], [{"goto": {"target": "rest"}}]):
            more, rest = [dport(443), {"drop": None}], [{"counter": None}]
            self.assertEqual(self.takers(first, [DNAT], more=more, rest=rest), [], first)
        accept, jump = {"accept": None}, {"jump": {"target": "more"}}
        for first in ([dport(80), accept], [meta("mark", 7), accept], [jump]):
            self.assertEqual(len(self.takers(first, [DNAT], more=[{"return": None}])), 1, first)

    def test_a_rule_in_another_chain_is_named(self) -> None:
        """Also one that a verdict map leads to."""
        data = {"set": [[80, {"accept": None}], [443, {"jump": {"target": "more"}}]]}
        vmap = {"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": data}}
        for way in ([{"jump": {"target": "more"}}], [vmap]):
            self.assertEqual(self.takers(way, more=[DNAT]), ["rule 9 in chain ip nat more: here"])

    def test_a_map_of_ports(self) -> None:
        """Takes those that it has."""
        key = {"payload": {"protocol": "tcp", "field": "dport"}}
        for port, count in ((443, 1), (444, 0)):
            data = {"set": [[port, "10.0.0.2"], [80, "10.0.0.3"]]}
            self.assertEqual(len(self.takers([{"dnat": {"addr": {"map": {"key": key, "data": data}}}}])), count)

    @settings(max_examples=40)
    @example([[{"jump": {"target": []}}]])
    @example([[{"goto": None}, {"dnat": 7}]])
    @given(st.lists(st.lists(st.dictionaries(st.sampled_from(["match", "vmap", "accept", "jump", "dnat"]), JSON))))
    def test_rules_of_any_shape_raise_nothing(self, rules: list[list[Any]]) -> None:
        """JSON of any shape raises nothing; a rule after it that takes everything may still do so."""
        found = self.takers(*json.loads(json.dumps(rules)))
        self.assertLessEqual(len(found), 2 * sum(map(len, rules)))

    def test_a_ruleset_of_another_version(self) -> None:
        """One whose objects lack their names, or are none, is not read."""
        others: tuple[Any, ...] = (
            7, {"rule": 7}, {"rule": {"chain": "a"}}, {"set": {"family": "ip"}}, {"rule": OF | {"handle": []}},
        )  # fmt: skip
        for other in others:
            self.assertRaises(RulesUnreadable, of_nft, [other], STRANGER, {})


class IptablesTests(SynchronousTestCase):
    """Rules of iptables."""

    def takers(self, *rules: str) -> list[str]:
        """What takes a stranger's SYN."""
        saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n" + "".join(f"-A {rule}\n" for rule in rules)
        return takers(of_iptables(saved, STRANGER), "PREROUTING")

    def test_which_rules_take(self) -> None:
        """As with nftables."""
        docker = "PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"
        for rules, count in (
            (["PREROUTING -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 8443"], 1),
            (["PREROUTING -p tcp -m multiport --dports 80,440:450 -j DNAT --to-destination 10.0.0.2"], 1),
            (["PREROUTING -m mark --mark 0x1 -j DNAT --to-destination 10.0.0.2"], 1),
            (["PREROUTING -p tcp -m socket -j DNAT --to-destination 10.0.0.2"], 1),
            ([docker, "DOCKER -i docker0 -j RETURN", "DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT"], 1),
            ([docker, "DOCKER -j RETURN", "DOCKER -p tcp -j DNAT"], 0),
            (["PREROUTING -p tcp --dport 443 -j ACCEPT", "PREROUTING -p tcp -j REDIRECT"], 0),
            (["PREROUTING -p tcp -m socket -j ACCEPT", "PREROUTING -p tcp -j REDIRECT"], 1),
            (["PREROUTING -j DOCKER", "PREROUTING -j REDIRECT", "DOCKER -p tcp -j LOG"], 1),
            (["PREROUTING -g DOCKER", "PREROUTING -j REDIRECT", "DOCKER -p tcp -j LOG"], 0),
            (["PREROUTING -m conntrack --ctstate INVALID,NEW -j ACCEPT", "PREROUTING -j REDIRECT"], 0),
            (["PREROUTING -m state --state RELATED,ESTABLISHED -j ACCEPT", "PREROUTING -j REDIRECT"], 1),
            (["PREROUTING -p udp -j REDIRECT", "PREROUTING -s 10.0.0.0/8 -j REDIRECT", "OUTPUT -j REDIRECT"], 0),
            (["PREROUTING ! -i eth0 -j REDIRECT", "PREROUTING -d 127.0.0.0/8 -j REDIRECT"], 0),
        ):
            self.assertEqual(len(self.takers(*rules)), count, rules)

    @given(st.lists(st.lists(st.sampled_from(WORDS), max_size=8), max_size=5))
    def test_rules_of_any_words_raise_nothing(self, rules: list[list[str]]) -> None:
        """Nothing is raised."""
        self.assertLessEqual(len(self.takers(*(f"PREROUTING {' '.join(rule)}" for rule in rules))), len(rules))

    def test_lines_that_are_cut_off(self) -> None:
        """Nothing is raised."""
        for line in ("*", ":", ":PREROUTING", "-A ", "-A PREROUTING", "-A PREROUTING -j", "-A PREROUTING !"):
            self.assertEqual(takers(of_iptables(f"*nat\n{line}\n", STRANGER), "PREROUTING"), [], line)


class TakenTests(SynchronousTestCase):
    """`taken`: what the programs write, put together."""

    def taken(self, outputs: dict[str, str]) -> str:
        kernel = MemoryKernel()
        kernel.outputs |= outputs
        return taken(443, (4,), None, kernel.output)

    def chain(self, table: str, **named: str) -> str:
        """What nft says of one chain of *table* at the hook."""
        said = {"family": "ip", "table": table, "name": "PREROUTING", "type": "nat", "hook": "prerouting"} | named
        return json.dumps({"nftables": [{"metainfo": {}}, {"chain": said}]})

    def test_rules_of_iptables_in_nftables_are_read_by_iptables(self) -> None:
        """nft does not know what they say."""
        listed = json.dumps({"nftables": [{"rule": OF | {"handle": 5, "expr": [{"xt": None}]}}]})
        saved = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination {}\n"
        found = self.taken({
            "nft --json list chains": self.chain("nat"),
            "nft --json list table ip nat": listed,
            "iptables-nft-save -t nat": saved.format("192.0.2.9:8443") + "COMMIT\n",
        })  # fmt: skip
        self.assertIn("--dport 443 -j DNAT", found)
        self.assertNotIn("192.0.2.9", found)

    def test_what_cannot_be_read_takes_nothing(self) -> None:
        """Another hook, a table of ours, and words that are no ruleset."""
        for said in (
            self.chain("nat", hook="output"), self.chain("torknock-443"), self.chain("nat", family="bridge"),
            "no JSON", '{"other": []}', "[" * 100_000, self.chain("nat"),
        ):  # fmt: skip
            self.assertEqual(self.taken({"nft --json list chains": said}), "")
