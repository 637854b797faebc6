"""Tests of what is said of a host's firewall: against what packets really meet, with rules of every kind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import knock
from tests.support.netns import CommandFailed, Lab
from tests.support.rulesets import ANSWERING, FIREWALLD, LATER, PLAIN, STATEFUL, STRANGE, TAKING, UFW

_JUDGE = """
import json, sys
from torknock.operate.firewall.fate import SYN
from torknock.operate.firewall.look import look
from torknock.privileged.gate.translation import taken
syns = [SYN(port, version) for port in map(int, sys.argv[2:]) for version in map(int, sys.argv[1].split(","))]
judged = look().judge_all(syns)
print(json.dumps([
    [sorted(fate.name for fate in each.fates), list(each.doubts), taken(syn.port, (syn.version,), None)]
    for syn, each in zip(syns, judged, strict=True)
]))
"""

_HANGS = """
import sys
from torknock.kernel import blocking_program
from torknock.operate.firewall import look
firewall = look.look()
blocking_program.ENDS_WITHIN = 1.0
look._TRIAL = ("-c", "import subprocess; subprocess.run(['sleep', '61'])")
print(firewall.judge(443, 4).doubts)
"""

_SEEN = {"PASSED": "refused", "DROPPED": "silence", "RESET": "refused", "REJECTED": "refused"}
"""What a connection meets on a host where nothing listens. (Linux calls ICMP's "port unreachable" a refusal, too.)"""

_EMPTY = "*filter\nCOMMIT\n*nat\nCOMMIT\n*mangle\nCOMMIT\n*raw\nCOMMIT\n"


class Judged(NamedTuple):
    """What is said of a SYN."""

    fates: list[str]
    doubts: list[str]
    taker: str


class FirewallTests(SynchronousTestCase):
    """A host whose firewall is judged there, and met by packets of another host."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.host, self.stranger = lab.host("bridge"), lab.host("client")

    def judged(self, *ports: int, versions: str = "4") -> list[Judged]:
        """What is said of SYNs to *ports*, over each of the IP *versions*."""
        told = self.host.run([sys.executable, "-c", _JUDGE, versions, *map(str, ports)]).stdout
        return [Judged(*each) for each in json.loads(told)]

    def assert_true(self, expected: Mapping[int, str], versions: str = "4") -> None:
        """The judgement is as *expected*, and so is what packets meet."""
        self.assertEqual(
            [each[:2] for each in self.judged(*expected, versions=versions)],
            [([fate], []) for fate in expected.values() for _ in versions.split(",")],
        )
        for port, fate in expected.items():
            try:
                met = knock(self.stranger, self.host.address, port, None, patience=0.3)
            except OSError:  # an ICMP message that says: prohibited
                met = "prohibited"
            self.assertIn(met, {_SEEN[fate], "prohibited"} if fate == "REJECTED" else {_SEEN[fate]}, port)

    def load(self, rules: str) -> None:
        """Have these rules alone, of nftables or of iptables."""
        self.host.run(["iptables-nft-restore"], _EMPTY)
        self.host.run(["nft", "flush", "ruleset"])
        restore = ["iptables-nft-restore"] if rules.lstrip().startswith("*") else ["nft", "-f", "-"]
        self.host.run(restore, rules.replace("} }", "}\n}"))

    def test_without_a_firewall_all_ports_are_what_they_are(self) -> None:
        """All ports are what they are."""
        self.assert_true({443: "PASSED", 22: "PASSED"}, "4,6")

    def test_a_ruleset_of_nftables_that_was_written_by_hand(self) -> None:
        """Sets, maps, jumps, limits and concatenations of a ruleset that was written by hand."""
        self.load(PLAIN)
        self.assert_true({
            443: "PASSED", 8001: "PASSED", 8050: "DROPPED", 22: "PASSED", 23: "DROPPED", 24: "DROPPED", 25: "PASSED",
            26: "DROPPED", 27: "PASSED", 28: "RESET", 60001: "REJECTED", 53: "DROPPED", 9: "DROPPED",
        }, "4,6")  # fmt: skip

    def test_the_zone_public_of_firewalld(self) -> None:
        """The zone public, with two services, and what it rejects."""
        self.load(FIREWALLD)
        self.assert_true({443: "PASSED", 22: "PASSED", 80: "REJECTED"}, "4,6")

    def test_ufw_through_iptables_of_both_kinds(self) -> None:
        """Through iptables of both kinds, whose matches nft does not read out."""
        expected = {
            443: "PASSED", 80: "PASSED", 8050: "PASSED", 22: "PASSED", 24: "DROPPED", 25: "DROPPED", 26: "RESET",
            27: "REJECTED", 445: "DROPPED", 9: "DROPPED",
        }  # fmt: skip
        self.load(UFW)
        self.assert_true(expected)
        self.load("")
        self.host.run(["iptables-legacy-restore"], UFW)
        self.assertEqual([each.fates for each in self.judged(*expected)], [[fate] for fate in expected.values()])

    def test_what_is_copied_does_as_the_host_does(self) -> None:
        """Synproxy, marks, sets that a rule adds to, chains at ingress, later chains, odd comments."""
        for text, (fate, rules) in (ANSWERING | LATER).items():
            self.load(rules)
            port, other = self.judged(443, 444)
            self.assertEqual(port[:2], ([fate], []), text)
            self.assertEqual(other[:2], (["DROPPED" if text == "inet ingress" else "PASSED"], []), text)

    def test_state_of_rules_is_that_of_a_first_syn(self) -> None:
        """Each SYN is the first: a rate limit, or a count of connections, lets all of them in that are asked about."""
        for text, rules in STATEFUL.items():
            self.load(rules)
            self.assertEqual([each[:2] for each in self.judged(443, 443, 443)], 3 * [(["PASSED"], [])], text)

    def test_what_is_not_understood_is_unknown(self) -> None:
        """Statements, hooks, families, matches and targets are named; what they do to another port is not in doubt."""
        self.host.ip("link add eth1 type veth peer name eth2")
        missing = []
        for text, (of_all, rules) in STRANGE.items():
            try:
                self.load(rules)
            except CommandFailed as error:
                missing.append(f"{text}: {error}")
                continue
            port, other = self.judged(443, 444)
            self.assertIn("UNKNOWN", port.fates, text)
            self.assertTrue(any(text in doubt for doubt in port.doubts), (text, port))
            self.assertEqual("UNKNOWN" in other.fates, of_all, (text, other))
        self.assertEqual(missing, [], "\n".join(missing))

    def test_what_cannot_be_copied_is_unknown(self) -> None:
        """Such as a table that the copy's kernel refuses; the reason is told."""
        self.load("table ip own { chain in { type filter hook input priority 0; policy drop; } }")
        [judged] = self.judged(443)
        self.assertEqual(judged.fates, ["DROPPED"])
        self.host.run(["ip", "route", "delete", "default"])
        [judged] = self.judged(443)
        self.assertEqual(judged.fates, ["UNKNOWN"])
        self.assertIn("default route", judged.doubts[0])

    def test_an_answer_that_does_not_leave(self) -> None:
        """A port that is let in, and whose reset is dropped, is not as one that nobody drops."""
        self.load("table ip own { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; } }")
        [judged] = self.judged(443)
        self.assertEqual(judged.fates, ["PASSED", "UNKNOWN"])
        self.assertIn("keep from leaving", judged.doubts[0])

    def test_what_address_translation_takes(self) -> None:
        """Is said, with the rule that does it; of other ports nothing is."""
        for text, rules in TAKING.items():
            self.load(rules)
            port, other = self.judged(443, 444)
            self.assertEqual(port[:2], (["TAKEN"], []), text)
            self.assertIn(text, port.taker)
            self.assertEqual(other, (["PASSED"], [], ""), text)

    def test_nothing_is_changed_and_nothing_is_left(self) -> None:
        """No rule of the host's counts what is asked, no interface stays, and our tables are left out."""
        self.load(PLAIN)
        self.host.run(["nft", "-f", "-"], """
            table inet torknock-443 { chain in { type filter hook input priority 1; tcp dport 443 drop; }; }
            table ip own { chain in { type filter hook input priority -5; counter; }; }
        """)  # fmt: skip
        before = self.state()
        self.assertEqual(self.judged(443)[0].fates, ["PASSED"])
        self.assertEqual(self.state(), before)

    def state(self) -> tuple[str, list[str]]:
        """The rules with what they have counted, and the names of the interfaces."""
        links = json.loads(self.host.run(["ip", "-json", "link"]).stdout)
        return self.host.run(["nft", "list", "ruleset"]).stdout, [link["ifname"] for link in links]

    def test_a_trial_that_takes_too_long(self) -> None:
        """It is killed with all that it has started, and what it was asked is unknown."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        running = self.host.popen([sys.executable, "-c", _HANGS], cwd=directory, stdout=subprocess.PIPE, text=True)
        self.assertIn("has not ended within", running.communicate()[0])

        def there() -> list[Path]:
            found = []
            for process in Path("/proc").glob("[0-9]*/cwd"):
                with contextlib.suppress(OSError):
                    found += [process] if process.readlink() == directory else []
            return found

        self.assertTrue(wait_for(lambda: not there()), there())

    def test_who_is_not_root(self) -> None:
        """May not look."""
        powerless = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
        with self.assertRaises(CommandFailed) as caught:
            self.host.run([*powerless, sys.executable, "-c", _JUDGE, "4", "443"])
        self.assertIn("ProgramFailed: nft", str(caught.exception))

    def test_a_filter_of_tc(self) -> None:
        """It gets packets before any rule."""
        self.host.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])
        self.assertEqual(self.judged(443)[0].fates, ["PASSED"])
        self.host.run(
            ["tc", "filter", "add", "dev", "eth0", "ingress", "u32", "match", "u32", "0", "0", "flowid", "1:1"]
        )
        self.assertEqual(self.judged(443)[0].fates, ["PASSED", "UNKNOWN"])
