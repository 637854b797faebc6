"""Tests of `torknock doctor`: its judgement of firewalls against what packets really meet, and a real tor."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import TORKNOCK, knock
from tests.support.netns import CommandFailed, Host, Lab
from tests.support.tornet import Tor
from torknock.operate.check_bridge import Reply, approach

JUDGE = """
import json, sys
from torknock.firewall.look import look
firewall = look()
for port in map(int, sys.argv[1:]):
    judgement = firewall.judge(port, 4)
    print(json.dumps([sorted(fate.name for fate in judgement.fates), [*judgement.doubts, *judgement.takers]]))
"""

PLAIN = """
    table inet own {
        set served { type inet_service; flags interval; elements = { 443, 8000-8100 } }
        set hosts { type ipv4_addr; elements = { 203.0.113.1 } }
        map ways { type inet_service : verdict; elements = { 22 : accept, 23 : drop } }
        chain served { tcp dport 8050 return; accept; }
        chain input {
            type filter hook input priority filter; policy drop;
            ct state vmap { established : accept, related : accept, invalid : drop }
            iifname "lo" accept
            ip saddr @hosts accept
            ip saddr 10.0.0.0/8 tcp dport 24 accept
            meta l4proto { icmp, ipv6-icmp } accept
            tcp flags syn / fin,syn,rst,ack tcp dport @served jump served
            tcp dport vmap @ways
            iifname "eth0" tcp dport 25 accept
            iifname "wg*" accept
            ip saddr . tcp dport { 203.0.113.2 . 26, 10.0.0.0/8 . 26 } accept
            tcp dport 27 limit rate 10/second accept
            tcp dport { 28, 29 } reject with tcp reset
            tcp dport > 60000 reject
            udp dport 53 accept
        }
    }
"""

FIREWALLD = """
    table inet firewalld {
        chain filter_PREROUTING {
            type filter hook prerouting priority filter + 10; policy accept;
            icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
            meta nfproto ipv6 fib saddr . mark . iif oif missing drop
        }
        chain filter_INPUT {
            type filter hook input priority filter + 10; policy accept;
            ct state { established, related } accept
            ct status dnat accept
            iifname "lo" accept
            ct state invalid drop
            jump filter_INPUT_ZONES
            reject with icmpx admin-prohibited
        }
        chain filter_INPUT_ZONES { goto filter_IN_public; }
        chain filter_IN_public {
            jump filter_IN_public_allow
            meta l4proto { icmp, ipv6-icmp } accept
        }
        chain filter_IN_public_allow {
            tcp dport 22 ct state { new, untracked } accept
            ip6 daddr fe80::/64 udp dport 546 ct state { new, untracked } accept
            tcp dport 443 ct state { new, untracked } accept
        }
    }
"""

UFW = """
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-user-limit - [0:0]
:ufw-user-limit-accept - [0:0]
:ufw-after-input - [0:0]
:ufw-skip-to-policy-input - [0:0]
:ufw-after-logging-input - [0:0]
:ufw-reject-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A INPUT -j ufw-after-logging-input
-A INPUT -j ufw-reject-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-not-local -j DROP
-A ufw-before-input -d 224.0.0.251/32 -p udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp --dport 443 -j ACCEPT -m comment --comment "it's ours"
-A ufw-user-input -p tcp -m multiport --dports 80,8000:8100 -j ACCEPT
-A ufw-user-input -s 10.0.0.0/8 -p tcp --dport 24 -j ACCEPT
-A ufw-user-input ! -i eth0 -p tcp --dport 25 -j ACCEPT
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --set
-A ufw-user-input -p tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 -j DROP
-A ufw-user-input -p tcp --dport 22 -j ufw-user-limit-accept
-A ufw-user-limit-accept -j ACCEPT
-A ufw-user-input -p tcp --syn --dport 26 -j REJECT --reject-with tcp-reset
-A ufw-user-input -p tcp --dport 27 -j REJECT
-A ufw-after-input -p tcp --dport 445 -j ufw-skip-to-policy-input
-A ufw-skip-to-policy-input -j DROP
-A ufw-after-logging-input -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
COMMIT
"""

DOCKER = """
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT --to-destination 172.17.0.2:443
COMMIT
"""
"""What Docker writes for `docker run --publish 443:443`."""

STRANGE = {
    "synproxy": """table inet own { chain input { type filter hook input priority 0
        tcp dport 443 ct state new synproxy mss 1460 wscale 7 timestamp sack-perm
    } }""",
    "synproxy mss": """table inet own {
        chain before { type filter hook prerouting priority raw
            tcp dport 443 tcp flags syn notrack
        }
        chain input { type filter hook input priority 0
            tcp dport 443 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
        }
    }""",
    "tcp dport 443 tproxy": """table inet own { chain before { type filter hook prerouting priority mangle
        tcp dport 443 tproxy ip to 127.0.0.1:80 accept
    } }""",
    "dup to": """table ip own { chain before { type filter hook prerouting priority 0
        tcp dport 443 dup to 10.0.0.3
    } }""",
    "dport set 8443": """table inet own { chain before { type filter hook prerouting priority 0
        tcp dport 443 tcp dport set 8443
    } }""",
    "fwd to": """table netdev own { chain in { type filter hook ingress device eth0 priority 0
        tcp dport 443 fwd to eth0
    } }""",
    "tcp dport 443 drop": """table netdev own { chain in { type filter hook ingress device eth0 priority 0
        tcp dport 443 drop
    } }""",
    "inet own in": """table inet own { chain in { type filter hook ingress device eth0 priority 0; policy drop
        tcp dport 444 accept
    } }""",
    "bridge own in": """table bridge own { chain in { type filter hook input priority 0
        tcp dport 443 drop
    } }""",
    "meta mark": """table inet own {
        chain before { type filter hook prerouting priority 0
            tcp dport 443 meta mark set 7
        }
        chain input { type filter hook input priority 0
            meta mark 7 drop
        }
    }""",
    "saddr @seen": """table inet own {
        set seen { type ipv4_addr; flags dynamic
        }
        chain input { type filter hook input priority 0
            tcp dport 443 add @seen { ip saddr }
            ip saddr @seen drop
        }
    }""",
    "-j SYNPROXY": "*filter\n-A INPUT -p tcp --dport 443 -j SYNPROXY --mss 1460 --wscale 7\nCOMMIT\n",
    "--ctstate INVALID,UNTRACKED": """*raw
-A PREROUTING -p tcp --dport 443 -j CT --notrack
COMMIT
*filter
-A INPUT -p tcp --dport 443 -m conntrack --ctstate INVALID,UNTRACKED -j DROP
COMMIT
""",
    "-j TPROXY": "*mangle\n-A PREROUTING -p tcp --dport 443 -j TPROXY --on-port 80\nCOMMIT\n",
    "-j TEE": "*mangle\n-A PREROUTING -p tcp --dport 443 -j TEE --gateway 10.0.0.3\nCOMMIT\n",
    "-m socket": "*mangle\n-A PREROUTING -p tcp -m socket -j DROP\nCOMMIT\n",
    "-m bpf": '*filter\n-A INPUT -m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0" -j DROP\nCOMMIT\n',
    "-m u32": '*filter\n-A INPUT -p tcp --dport 443 -m u32 --u32 "0>>22&0x3C@4=0" -j DROP\nCOMMIT\n',
}
"""Rules that do to a SYN what cannot be judged, by what must be said of them."""

TAKING = {
    "dnat": "table ip own { chain in { type nat hook prerouting priority dstnat\ntcp dport 443 dnat to 10.0.0.2\n} }",
    "redirect": """table inet own { chain in { type nat hook prerouting priority -150
        tcp dport 443 redirect to :80
    } }""",
    "dport map": """table ip own { chain in { type nat hook prerouting priority dstnat
        dnat to tcp dport map { 443 : 10.0.0.2, 80 : 10.0.0.3 }
    } }""",
    "-j DNAT": DOCKER,
    "-j REDIRECT": "*nat\n-A PREROUTING -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 8443\nCOMMIT\n",
}
"""Rules that take port 443, and not 444, by their names."""

SEEN = {"PASSED": "refused", "DROPPED": "silence", "RESET": "refused", "REJECTED": "refused"}
"""What a connection meets on a host where nothing listens. (Linux calls ICMP's "port unreachable" a refusal, too.)"""


class FirewallTests(SynchronousTestCase):
    """A host whose firewall is judged there, and met by packets of another host."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.host, self.stranger = lab.host("bridge"), lab.host("client")

    def judged(self, ports: Sequence[int]) -> dict[int, list[str]]:
        """What may become of SYNs to *ports*."""
        told = self.host.run([sys.executable, "-c", JUDGE, *map(str, ports)]).stdout
        return {port: json.loads(line)[0] for port, line in zip(ports, told.splitlines(), strict=True)}

    def assert_true(self, expected: dict[int, str]) -> None:
        """The judgement is as *expected*, and so is what packets meet."""
        self.assertEqual(self.judged(list(expected)), {port: [fate] for port, fate in expected.items()})
        for port, fate in expected.items():
            try:
                met = knock(self.stranger, self.host.address, port, None, patience=0.3)
            except OSError:  # an ICMP message that says: prohibited
                met = "prohibited"
            self.assertIn(met, {SEEN[fate], "prohibited"} if fate == "REJECTED" else {SEEN[fate]}, port)

    def test_no_firewall(self) -> None:
        """All ports are what they are."""
        self.assert_true({443: "PASSED", 22: "PASSED"})

    def test_nftables(self) -> None:
        """Sets, maps, jumps, limits and concatenations of a ruleset that somebody wrote by hand."""
        self.host.run(["nft", "-f", "-"], PLAIN)
        self.assert_true({
            443: "PASSED", 8001: "PASSED", 8050: "DROPPED", 22: "PASSED", 23: "DROPPED", 24: "DROPPED", 25: "PASSED",
            26: "DROPPED", 27: "PASSED", 28: "RESET", 60001: "REJECTED", 53: "DROPPED", 9: "DROPPED",
        })  # fmt: skip

    def test_firewalld(self) -> None:
        """The zone public, with two services, and what it rejects."""
        self.host.run(["nft", "-f", "-"], FIREWALLD)
        self.assert_true({443: "PASSED", 22: "PASSED", 80: "REJECTED"})

    def test_ufw(self) -> None:
        """Through iptables, whose matches nft does not read out."""
        self.host.run(["iptables-nft-restore"], UFW)
        self.assert_true({
            443: "PASSED", 80: "PASSED", 8050: "PASSED", 22: "PASSED", 24: "DROPPED", 25: "DROPPED", 26: "RESET",
            27: "REJECTED", 445: "DROPPED", 9: "DROPPED",
        })  # fmt: skip

    def test_what_cannot_be_judged_is_said(self) -> None:
        """A rule that asks for what is not known leaves both possible, and is named."""
        self.host.run(["nft", "add table inet own"])
        self.host.run(["nft", "-f", "-"], """
            table inet own {
                chain input {
                    type filter hook input priority filter; policy drop;
                    ip ttl 17 tcp dport 443 accept
                }
            }
        """)  # fmt: skip
        self.assertEqual(self.judged([443, 444]), {443: ["DROPPED", "PASSED"], 444: ["DROPPED"]})

    def load(self, rules: str) -> None:
        """Have these rules alone, of nftables or of iptables."""
        for program in ("iptables-nft-restore", "iptables-legacy-restore"):
            with contextlib.suppress(CommandFailed):
                self.host.run([program], "*filter\nCOMMIT\n*nat\nCOMMIT\n*mangle\nCOMMIT\n*raw\nCOMMIT\n")
        self.host.run(["nft", "flush", "ruleset"])
        restore = ["iptables-nft-restore"] if rules.lstrip().startswith("*") else ["nft", "-f", "-"]
        self.host.run(restore, rules.replace("} }", "}\n}"))

    def test_what_is_not_understood_is_unknown(self) -> None:
        """Statements, hooks, families, matches and targets; what they do to another port is not in doubt."""
        missing = []
        for text, rules in STRANGE.items():
            try:
                self.load(rules)
            except CommandFailed as error:
                missing.append(f"{text}: {error}")
                continue
            told = json.loads(self.host.run([sys.executable, "-c", JUDGE, "443"]).stdout)
            self.assertNotEqual(told[0], ["PASSED"], text)
            self.assertTrue(any(text in doubt for doubt in told[1]), (text, told))
        self.assertEqual(missing, [], "\n".join(missing))

    def test_what_address_translation_takes(self) -> None:
        """Is said, with the rule that does it; of other ports nothing is."""
        for text, rules in TAKING.items():
            self.load(rules)
            told = self.host.run([sys.executable, "-c", JUDGE, "443", "444"]).stdout.splitlines()
            self.assertEqual(json.loads(told[0])[0], ["TAKEN"], text)
            self.assertIn(text, json.loads(told[0])[1][0])
            self.assertEqual(json.loads(told[1]), [["PASSED"], []], text)

    def test_a_filter_of_tc(self) -> None:
        """It gets packets before any rule."""
        self.host.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])
        self.assertEqual(self.judged([443]), {443: ["PASSED"]})
        self.host.run(
            ["tc", "filter", "add", "dev", "eth0", "ingress", "u32", "match", "u32", "0", "0", "flowid", "1:1"]
        )
        self.assertEqual(self.judged([443]), {443: ["PASSED", "UNKNOWN"]})


class ApproachTests(TestCase):
    """What a stranger is told by a host's firewall, as `torknock check` calls it."""

    async def test_refused_and_prohibited(self) -> None:
        """A closed port, and one whose firewall says so by ICMP, are told apart."""
        lab = Lab()
        self.addCleanup(lab.close)
        host, stranger = lab.host("bridge"), lab.host("client")
        host.run(["nft", "-f", "-"], FIREWALLD)
        for port, reply in ((443, Reply.REFUSED), (444, Reply.UNREACHABLE)):
            for address in (host.address, host.address6):
                with stranger.enter():
                    approaching = Deferred.fromCoroutine(approach(reactor, address, port))
                self.assertEqual((await approaching).reply, reply, (address, port))


class DoctorTests(SynchronousTestCase):
    """A tor of its own, on a host of its own."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.host = lab.host("bridge")
        directory = tempfile.TemporaryDirectory(prefix="tk", ignore_cleanup_errors=True)
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def bridge(self, torrc: str = "", or_port: str = "127.0.0.1:auto") -> Tor:
        bridge = Tor("bridge", self.host, self.directory / "bridge", (
            f"BridgeRelay 1\nPublishServerDescriptor 0\nAddress {self.host.address}\nORPort {or_port} IPv4Only\n"
            "AssumeReachable 1\nExtORPort auto\nSocksPort 0\n"
            f"Log notice stdout\nLog notice file {self.directory}/notices.log\n"
            f"ServerTransportPlugin torknock exec {TORKNOCK} server\n"
            f"ServerTransportListenAddr torknock 0.0.0.0:443\n{torrc}"
        ))  # fmt: skip
        self.addCleanup(bridge.stop)
        return bridge

    def doctor(self, *words: str, before: Sequence[str] = (), host: Host | None = None) -> dict[str, dict[str, str]]:
        """The findings by name."""
        control = ["--control", str(self.directory / "bridge" / "control")]
        running = (host or self.host).popen(
            [*before, TORKNOCK, "doctor", *words, "--json", *control],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = running.communicate()
        self.assertEqual(errors, "")
        told: dict[str, Any] = json.loads(said)
        self.assertEqual(told["status"], running.returncode)
        self.assertIsNone(re.search(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(?!:auto|:443)", self.without_remedies(said)), said)
        self.assertIsNone(re.search(r"[0-9A-F]{40}", said), said)
        findings = {finding["name"]: finding for finding in told["findings"]}
        for finding in findings.values():
            self.assertEqual(finding["remedy"] == "", finding["state"] == "ok", finding)
        return findings

    def without_remedies(self, said: str) -> str:
        return re.sub(r"tor 0\.[0-9.]+", "tor", re.sub(r'"remedy": "[^"]*"', "", said))

    def wrong(self, findings: dict[str, dict[str, str]]) -> set[str]:
        """What is not ok, but for what a tor without a network cannot have."""
        return {name for name, found in findings.items() if found["state"] == "not ok"} - {"bootstrap"}

    def ruleset(self) -> str:
        return self.host.run(["nft", "list", "ruleset"]).stdout

    def test_a_bridge_that_is_well(self) -> None:
        """Nothing is wrong once it has a line; looking changes nothing; who is not root learns what he may."""
        bridge = self.bridge()
        bridge.wait_log("Registered server transport")
        keyring = str(bridge.data_directory / "pt_state" / "torknock")
        self.assertEqual(self.wrong(self.doctor()), {"lines"})
        self.host.run([TORKNOCK, "line", "add", "alice", "--keyring", keyring, "--address", "192.0.2.7:443"])
        before = re.sub(r"expires \S+", "", self.host.run(["nft", "-t", "list", "ruleset"]).stdout)
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), set(), findings)
        self.assertEqual(findings["ORPort"]["state"], "ok")
        self.assertEqual(findings["registered"]["state"], "ok")
        self.assertIn("1 of 1", findings["lines"]["why"])
        self.assertIn("closed", findings["posture"]["why"])
        self.assertEqual(re.sub(r"expires \S+", "", self.host.run(["nft", "-t", "list", "ruleset"]).stdout), before)
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
        findings = self.doctor("bridge", before=nobody)
        self.assertEqual({findings[name]["state"] for name in ("tor", "nf_tables", "port")}, {"unknown"}, findings)

    def test_a_bridge_that_is_found(self) -> None:
        """Its ORPort is on a public address, though tor's configuration has a transport."""
        self.bridge(or_port="auto").wait_log("Registered server transport")
        findings = self.doctor("bridge")
        self.assertEqual(self.wrong(findings), {"lines", "ORPort"}, findings)
        self.assertIn("a scan finds", findings["ORPort"]["why"])

    def test_a_tor_that_is_not_set_up(self) -> None:
        """One thing is wanting, and one command does it: no list of what it would change."""
        tor = Tor("bridge", self.host, self.directory / "bridge", "SocksPort 127.0.0.1:auto\nLog notice stdout\n")
        self.addCleanup(tor.stop)
        tor.wait_log("Opened Control listener")
        for role, command in (("bridge", "torknock setup bridge"), ("client", "torknock setup client")):
            findings = self.doctor(role)
            self.assertEqual(self.wrong(findings), {"set-up"}, findings)
            self.assertIn(command, findings["set-up"]["remedy"])
            self.assertNotIn("torrc", json.dumps(findings))

    def test_a_persons_own_tor(self) -> None:
        """Not the one of this host: it is named, with whose it is; nothing is said of the host's."""
        own = f"{self.directory}/own"
        Path(own).mkdir(mode=0o777)
        self.directory.chmod(0o755)
        Path(own).chmod(0o777)
        Path(own, "torrc").touch()
        user = "daemon"
        plain = Tor("bridge", self.host, self.directory / "bridge", "SocksPort 127.0.0.1:auto\nLog notice stdout\n")
        self.addCleanup(plain.stop)
        plain.wait_log("Opened Control listener")
        findings = self.doctor("client", "--user", user)
        self.assertEqual(self.wrong(findings), {"tor", "group", "privilege"}, findings)
        self.assertIn(f"no tor of {user}'s runs", findings["tor"]["why"])
        theirs = self.host.popen(
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "tor", "-f", f"{own}/torrc",
             "--DataDirectory", f"{own}/tor", "--SocksPort", "127.0.0.1:auto", "--DisableNetwork", "1"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.addCleanup(theirs.terminate)
        self.assertTrue(wait_for(Path(f"{own}/tor").exists))
        findings = self.doctor("client", "--user", user)
        self.assertIn(f"{user}'s tor runs", findings["tor"]["why"])
        self.assertIn("group", findings)
        self.assertEqual(findings["group"]["state"], "not ok")
        self.assertIn(f"torknock setup client --user {user}", findings["group"]["remedy"])
        self.assertIn("torknock client", findings["process"]["why"])
        self.assertNotIn("UseBridges", findings)

    def test_a_firewall_in_the_way(self) -> None:
        """The port is dropped; then it is let in, and stands out among ports that are dropped."""
        self.bridge().wait_log("Registered server transport")
        self.host.run(["nft", "-f", "-"], (
            "table inet own { chain input { type filter hook input priority filter; policy drop; iif lo accept; }; }"
        ))  # fmt: skip
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"lines", "firewall", "posture"}, findings)
        self.host.run(["nft", "add", "rule", "inet", "own", "input", "tcp", "dport", "443", "accept"])
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"lines", "posture"}, findings)
        self.assertIn("posture=filtered", findings["posture"]["remedy"])

    def test_a_port_that_a_container_publishes(self) -> None:
        """Docker's rule came later: the doctor names it, and so does tor's log."""
        bridge = self.bridge()
        bridge.wait_log("Registered server transport")
        self.host.run(["iptables-nft-restore"], DOCKER)
        bridge.wait_log("address translation takes port 443 to another service.*-j DNAT")
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"lines", "bridge", "gate", "firewall", "tor's log"}, findings)
        self.assertIn("-A DOCKER ! -i docker0 -p tcp -m tcp --dport 443 -j DNAT", findings["firewall"]["remedy"])

    def test_a_port_that_another_program_serves(self) -> None:
        """The transport does not begin; who listens, and what tor's log says, are both told."""
        quiet = subprocess.DEVNULL
        self.host.popen([sys.executable, "-m", "http.server", "443"], stdout=quiet, stderr=quiet)
        bridge = self.bridge()
        bridge.wait_log("(?i)server method .*failed|another program listens")
        findings = self.doctor()
        self.assertLessEqual({"listener", "gate", "registered"}, self.wrong(findings), findings)
        self.assertIn("another program listens on port 443", findings["tor's log"]["why"])

    def test_a_client(self) -> None:
        """Its line is damaged and it has a proxy: both are said, and no part of the line."""
        client = Tor("bridge", self.host, self.directory / "bridge", (
            "SocksPort 127.0.0.1:auto\nUseBridges 1\nLog notice stdout\nSocks5Proxy 127.0.0.1:9\n"
            f"ClientTransportPlugin torknock exec {TORKNOCK} client\nBridge torknock 192.0.2.7:443 key=c2VjcmV0\n"
        ))  # fmt: skip
        self.addCleanup(client.stop)
        client.wait_log("Opened Control listener")
        findings = self.doctor()
        self.assertEqual(self.wrong(findings), {"bridge lines", "proxy"}, findings)
        self.assertNotIn("c2VjcmV0", json.dumps(findings))
        self.assertIn("CAP_NET_ADMIN", findings["privilege"]["why"])

    def test_no_tor(self) -> None:
        """That is said; where nothing tells what this host has, it must be said."""
        findings = self.doctor("client")
        self.assertIn("tor", self.wrong(findings))
        asked = self.host.popen(
            [TORKNOCK, "doctor", "--control", "/nowhere", "--keyring", "/nowhere"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, errors = asked.communicate()
        self.assertEqual((said, asked.returncode, errors.count("\n")), ("", 1, 1))
        self.assertIn("torknock doctor bridge", errors)
