"""Tests of torknock.operate.firewall and of what is proposed from it: what is read of listings, and what is sent."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.blocking_program import ProgramFailed
from torknock.operate import addresses, propose
from torknock.operate.firewall import look, trial
from torknock.operate.firewall.fate import SYN, Fate, Judgement
from torknock.operate.firewall.look import Firewall
from torknock.operate.firewall.trial import Trial
from torknock.protocol.door import Posture


class ListingTests(SynchronousTestCase):
    """What nft, ip and tc write."""

    def test_tables_of_iptables_are_known_by_their_matches(self) -> None:
        """nft cannot write those out."""
        rule = {"family": "ip", "table": "filter", "chain": "INPUT", "expr": [{"xt": None}]}
        own = {"family": "inet", "table": "own", "chain": "input", "expr": [{"accept": None}]}
        self.assertEqual(look._made_by_iptables([{"rule": rule}, {"rule": own}, {"table": {}}]), {("ip", "filter")})

    def test_a_chain_of_a_bridge_is_in_doubt_if_it_can_drop(self) -> None:
        """By its policy or by a rule; a chain of another hook is not."""

        def chain(name: str, **more: str) -> dict[str, Any]:
            return {"chain": {"family": "bridge", "table": "t", "name": name, "hook": "input"} | more}

        listed = [chain("a", policy="drop"), chain("b", policy="accept"), chain("c", policy="accept"),
                  {"rule": {"family": "bridge", "table": "t", "chain": "c"}}, chain("d", hook="output")]  # fmt: skip
        self.assertEqual(
            look._bridge_chains(listed), ["chain bridge t a, at hook input", "chain bridge t c, at hook input"]
        )

    def test_a_chain_of_an_unknown_device_is_in_doubt(self) -> None:
        """A SYN may come by it."""
        text = '\t\ttype filter hook ingress device "eth7" priority 0; policy accept;\n'
        self.assertEqual(look._other_ingress(text, {"eth7", "lo"}), [])
        self.assertEqual(look._other_ingress(text, {"eth0"}), ['a chain at a hook of device "eth7"'])

    def test_addresses_that_rules_name_are_no_stranger(self) -> None:
        """Single ones, networks and ranges, of both versions; all of them together are none."""
        for version, text, expected in (
            (4, "ip saddr 192.0.2.0/24 accept", [("192.0.2.0", "192.0.2.255")]),
            (4, "ip saddr 192.0.2.7-192.0.2.9 accept", [("192.0.2.7", "192.0.2.9")]),
            (4, "ip saddr 0.0.0.0/0 accept", []),
            (6, "ip6 saddr 2001:db8::7 accept", [("2001:db8::7", "2001:db8::7")]),
            (6, "ether saddr 02:00:00:00:00:01", []),
        ):
            found = look._named(version, [text])
            self.assertEqual(found, [(int(ip_address(first)), int(ip_address(last))) for first, last in expected], text)

    @given(st.sampled_from([4, 6]))
    def test_a_stranger_has_a_global_address_that_no_rule_names(self, version: int) -> None:
        """Where rules name every one, a well-known one has to do."""
        stranger = look._stranger(version, [(0, 2**31)] if version == 4 else [])
        self.assertTrue(stranger.is_global)
        if version == 4:
            self.assertGreater(int(stranger), 2**31)
        self.assertEqual(str(look._stranger(version, [(0, 2**128)])), {4: "8.8.8.8", 6: "2600::8"}[version])

    def test_a_program_that_writes_something_else_is_named(self) -> None:
        """With the package that it is of."""
        for written in ("{", "[]", '{"other": 1}'):
            self.patch(look, "output_of", lambda *_, written=written, **__: written)
            with self.assertRaisesRegex(ProgramFailed, "nft does not write JSON as expected"):
                look._json("nft", package="nftables")
        self.patch(look, "output_of", lambda *_, **__: '{"nftables": [{"table": {"family": "ip"}}]}')
        with self.assertRaisesRegex(ProgramFailed, "nft does not write the ruleset as nftables 1.0 does"):
            look.look()

    def test_the_firewall_has_the_tables_of_others(self) -> None:
        """Ours are left out, and those of families that no SYN meets."""
        listed = [
            {"table": {"family": "inet", "name": "own"}}, {"table": {"family": "inet", "name": "torknock-443"}},
            {"table": {"family": "arp", "name": "own"}},
        ]  # fmt: skip
        self.patch(look, "default_interface", lambda _version: None)
        self.patch(look, "output_of", lambda *words, **_: " ".join(words[3:]) + "\n")
        firewall = look._firewall(listed)
        self.assertEqual(firewall.text, "inet own\n")
        self.assertTrue(firewall.has_table("torknock-443"))
        self.assertFalse(firewall.has_table("torknock-444"))


class JudgementTests(SynchronousTestCase):
    """What becomes of a SYN, by what the trials of it said."""

    SYN4 = SYN(443, 4, "192.0.2.7")

    def judged(self, answers: list[tuple[Fate, list[str]]], **more: Any) -> Judgement:
        return Firewall("", {}, **more)._judgement(self.SYN4, answers)

    def test_one_fate_is_the_judgement(self) -> None:
        """Without a doubt."""
        self.assertEqual(self.judged([(Fate.DROPPED, [])]), Judgement(frozenset({Fate.DROPPED}), ()))

    def test_a_doubt_leaves_it_open(self) -> None:
        """Of the host, or of a rule."""
        for judged in (self.judged([(Fate.PASSED, ["a rule"])]), self.judged([(Fate.PASSED, [])], doubts=("a rule",))):
            self.assertEqual((judged.fate, judged.doubts), (None, ("a rule",)))

    def test_addresses_that_are_treated_differently_are_named(self) -> None:
        """As one doubt."""
        judged = self.judged([(Fate.PASSED, []), (Fate.DROPPED, [])])
        self.assertEqual(judged.doubts, ("the rules that tell this host's own addresses apart",))

    def test_a_host_without_a_route_cannot_be_judged(self) -> None:
        """No interface, so no trial."""
        [judged] = Firewall("", {}).judge_all([self.SYN4])
        self.assertIn("the interface of the default route over IPv4", judged.doubts[0])
        self.assertIsNone(judged.fate)

    def test_rules_that_cannot_be_tried_are_the_doubt(self) -> None:
        """With the reason."""

        def fails(*_: Any, **__: Any) -> str:
            raise ProgramFailed("unshare ended with 1: not permitted")

        self.patch(look, "output_of", fails)
        judged = Firewall("", {}, interfaces={4: "eth0"}).judge(443, 4, "192.0.2.7")
        self.assertEqual(judged.doubts, ("the rules, which cannot be tried: unshare ended with 1: not permitted",))

    def test_ports_that_are_used_are_not_sampled(self) -> None:
        """Some unused ones are, over each version."""
        tried: list[SYN] = []

        def judge_all(_self: Firewall, syns: list[SYN]) -> list[Judgement]:
            tried.extend(syns)
            return []

        self.patch(Firewall, "judge_all", judge_all)
        Firewall("", {}).judge_unused(set(range(1024, 65000)), (4, 6))
        self.assertTrue(all(syn.port >= 65000 for syn in tried))
        self.assertEqual((len(tried), {syn.version for syn in tried}), (6, {4, 6}))


class FrameTests(SynchronousTestCase):
    """What the trial sends, and reads."""

    def test_the_syn_has_right_checksums(self) -> None:
        """RFC 1071: the sum of what is covered is 0xffff."""
        for source, dest in (("198.51.100.1", "192.0.2.7"), ("2600::1", "2001:db8::7")):
            datagram = trial._datagram(Trial("eth0", source, dest, 443))
            head = 20 if ":" not in source else 40
            segment = datagram[head:]
            pseudo = ip_address(source).packed + ip_address(dest).packed + struct.pack("!II", len(segment), 6)
            self.assertEqual(trial._checksum(pseudo + segment), bytes(2))
            self.assertEqual(struct.unpack("!HH", segment[:4])[1], 443)
            self.assertEqual(segment[13], 0x02)
            if head == 20:
                self.assertEqual(trial._checksum(datagram[:20]), bytes(2))
                self.assertEqual(int.from_bytes(datagram[2:4]), len(datagram))

    def test_answers_are_told_apart(self) -> None:
        """RST, SYN-ACK, another segment, and a rejection by ICMP, of both versions."""

        def ipv4(protocol: int, rest: bytes) -> bytes:
            return bytes([0x45, *bytes(8), protocol, *bytes(10)]) + rest

        def ipv6(protocol: int, rest: bytes) -> bytes:
            return bytes([0x60, 0, 0, 0, 0, 0, protocol, 64, *bytes(32)]) + rest

        for build, icmp, unreachable in ((ipv4, socket.IPPROTO_ICMP, 3), (ipv6, socket.IPPROTO_ICMPV6, 1)):
            for protocol, rest, fates in (
                (socket.IPPROTO_TCP, bytes(13) + b"\x14", {Fate.RESET}),
                (socket.IPPROTO_TCP, bytes(13) + b"\x12", {Fate.ANSWERED}),
                (socket.IPPROTO_TCP, bytes(13) + b"\x10", {Fate.TAKEN}),
                (icmp, bytes([unreachable]), {Fate.REJECTED}),
                (icmp, bytes([135]), set()),
            ):
                self.assertEqual(trial._answers(build(protocol, rest)), fates)

    def test_counters_decide_before_answers(self) -> None:
        """A translation first, then an arrival; without any sign the SYN was dropped."""
        for counted, answers, fate in (
            ({"torknock-translated", "torknock-arrived"}, set(), Fate.TAKEN),
            ({"torknock-arrived"}, {Fate.RESET}, Fate.PASSED),
            ({"torknock-came"}, set(), Fate.TAKEN),
            (set(), {Fate.RESET, Fate.REJECTED}, Fate.RESET),
            (set(), set(), Fate.DROPPED),
        ):
            self.assertIs(trial._fate(counted, answers), fate)

    def test_rules_are_found_by_their_handles(self) -> None:
        """In what `nft --handle list ruleset` writes."""
        listed = "table inet own { # handle 1\n\tchain input { # handle 1\n\t\ttype filter hook input priority 0;\n" \
                 "\t\ttcp dport 22 accept # handle 7\n\t}\n}\n"  # fmt: skip
        self.assertEqual(trial._texts(listed), {("inet", "own", "input", 7): "tcp dport 22 accept"})

    def test_a_rule_counts_if_it_counted_a_packet(self) -> None:
        """Whatever else is written of it."""

        def written(packets: int) -> str:
            rule: Mapping[str, Any] = {"comment": "torknock-arrived", "expr": [{"counter": {"packets": packets}}]}
            return json.dumps({"nftables": [{"metainfo": {}}, {"rule": rule}]})

        for packets, counted in ((0, set()), (2, {"torknock-arrived"})):
            self.patch(trial, "output_of", lambda *_, packets=packets, **__: written(packets))
            self.assertEqual(trial._Copy().counted(), counted)


class ProgramTests(SynchronousTestCase):
    """The child, as a process that may not make a network namespace."""

    def test_what_cannot_be_copied_is_unknown_with_the_reason(self) -> None:
        """Of each SYN, in their order."""
        syn = {"interface": "eth0", "source": "198.51.100.1", "address": "192.0.2.7"}
        syns = [syn | {"port": port} for port in (443, 8443)]
        asked = {"nft": "", "saved": {}, "devices": [], "syns": syns}
        powerless = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*powerless, sys.executable, "-m", "torknock.operate.firewall.trial"], input=json.dumps(asked),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        told = json.loads(done.stdout)
        self.assertEqual([each["fate"] for each in told], ["UNKNOWN", "UNKNOWN"])
        self.assertRegex(told[0]["doubts"][0], "^the rules, which cannot be copied: .*not permitted")


class ProposalTests(SynchronousTestCase):
    """What is proposed to an operator."""

    def firewall(self, *fates: Fate) -> None:
        """Have the host's unused ports judged so."""
        judgements = [Judgement(frozenset({fate})) for fate in fates]
        self.patch(Firewall, "judge_unused", lambda *_: judgements)
        self.patch(propose, "look", lambda: Firewall("", {}))

    def test_the_posture_is_what_unused_ports_do(self) -> None:
        """Closed where they differ, and where the firewall cannot be read."""
        for fates, posture in (
            ([Fate.PASSED] * 3, Posture.CLOSED),
            ([Fate.DROPPED] * 3, Posture.FILTERED),
            ([Fate.PASSED, Fate.DROPPED], Posture.CLOSED),
        ):
            self.firewall(*fates)
            self.assertIs(propose.propose_posture().posture, posture)

        def fails() -> Firewall:
            raise ProgramFailed("the command nft is missing")

        self.patch(propose, "look", fails)
        self.assertEqual(
            propose.propose_posture().why, "this host's firewall cannot be read (the command nft is missing)"
        )

    def test_the_address_is_the_hosts_own_if_it_is_public(self) -> None:
        """Else what tor takes for it, if that is; else none is proposed."""
        own: dict[int, IPv4Address | None] = {4: IPv4Address("8.8.4.4"), 6: None}
        self.patch(propose, "own_address", own.get)
        proposed = propose.propose_address("1.1.1.1")
        assert proposed is not None
        self.assertEqual(str(proposed.address), "8.8.4.4")
        own[4] = IPv4Address("10.0.0.7")
        proposed = propose.propose_address("1.1.1.1")
        assert proposed is not None
        self.assertEqual((str(proposed.address), proposed.why), ("1.1.1.1", "what tor takes for this host's"))
        for guess in (None, "bridge.example", "10.0.0.8", "127.0.0.1"):
            self.assertIsNone(propose.propose_address(guess), guess)

    def test_nothing_is_sent_to_find_an_address(self) -> None:
        """A broadcast address is told apart from others by the kernel; loopback's has one."""
        self.assertTrue(addresses.is_broadcast(ip_address("127.255.255.255")))
        for other in ("127.0.0.1", "::1"):
            self.assertFalse(addresses.is_broadcast(ip_address(other)))
        for version in (4, 6):
            found = addresses.own_address(version)
            self.assertTrue(found is None or found.version == version)
