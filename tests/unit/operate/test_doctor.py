"""Tests of `torknock.operate.doctor`: what is concluded from what was seen."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, cast

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.status_report import Trouble, Warned
from torknock.kernel import proc
from torknock.kernel.places import APPARMOR_TOR, APPARMOR_TOR_BROWSER
from torknock.kernel.proc import Listening, Process, may_open_files, process
from torknock.operate import tor_log
from torknock.operate.doctor import bridge_keyring, host, permissions, port, tor
from torknock.operate.doctor.open_files import files
from torknock.operate.doctor.open_files import judge as judge_files
from torknock.operate.finding import State
from torknock.operate.firewall.fate import Fate, Judgement
from torknock.operate.sides import Side
from torknock.protocol.door import Posture
from torknock.service.access import EVERYWHERE, Entry
from torknock.tor.inspect import TorFacts
from torknock.tor.refusing import refusing

ADDRESSES = st.ip_addresses().map(str)
HEX = st.binary(min_size=20, max_size=20).map(bytes.hex)


def facts(or_listeners: Iterable[str] = ("127.0.0.1:9001",), **options: str) -> TorFacts:
    """A tor with these *options*, one value each."""
    said = {name: (value,) for name, value in options.items()}
    return TorFacts((0, 4, 9, 11), 1, said, tuple(or_listeners), 100, True, None)


class LogTests(SynchronousTestCase):
    """tor's log."""

    def test_only_the_transport_that_runs_counts(self) -> None:
        """What a predecessor complained of is over; what tor says of others is theirs."""
        over = "Nov 23 19:00:00.000 [warn] Server managed proxy encountered a method error. (torknock no nft)\n"
        anew = "Nov 23 19:00:01.000 [notice] Registered server transport 'torknock' at '0.0.0.0:443'\n"
        other = "Nov 23 19:00:02.000 [warn] Your clock is odd\n"
        self.assertEqual(tor_log.judge(over + anew + other).state, State.OK)
        found = tor_log.judge(anew + over + over)
        self.assertEqual(found.state, State.NOT_OK)
        self.assertIn("2 times", found.why)
        self.assertEqual(found.why.count("no nft"), 1)

    def test_advice_and_complaints_that_are_over_are_no_fault(self) -> None:
        """tor's advice to have two bridges (0.4.8 and later), and what has mended itself since."""
        anew = "Nov 23 19:00:00.000 [notice] Registered server transport 'torknock' at '0.0.0.0:443'\n"
        said = 'Nov 23 19:00:01.000 [warn] Managed proxy "/usr/local/bin/torknock": '
        advice = (
            "Nov 23 19:00:02.000 [warn] Only one bridge (transport: 'torknock') is configured. You should have at "
            "least two for conflux, for any transport that is not 'snowflake'.\n"
        )
        lost = f"{said}the gate was lost: its service ended, or a program changed nftables; it is made anew\n"
        closed = f"{said}the port is closed to everyone until this is mended: keyring: database or disk is full\n"
        again = f"{said}port open again: that is mended\n"
        full, room = f"{said}connections turned away: all 9 places are taken\n", f"{said}connections accepted again\n"
        for text in (advice, lost, closed + again, closed + lost + again + advice, full + room):
            self.assertEqual(tor_log.judge(anew + text).state, State.OK, text)
        for text in (closed, again + closed, 9 * lost, full, room + full):
            self.assertEqual(tor_log.judge(anew + text).state, State.NOT_OK, text)

    def test_the_journal_is_read_like_a_file(self) -> None:
        """Its severities are numbers, and it has messages that are no text."""
        entries = [
            {"PRIORITY": "5", "MESSAGE": "Registered server transport 'torknock' at '0.0.0.0:443'"},
            {"PRIORITY": "4", "MESSAGE": "Server managed proxy encountered a method error. (torknock no nft)"},
            {"PRIORITY": "4", "MESSAGE": [1, 2]},
            {"PRIORITY": "7", "MESSAGE": "torknock"},
            {"PRIORITY": "4"},
            {"PRIORITY": ["4", "3"], "MESSAGE": "torknock"},  # fields that were sent twice
            {"PRIORITY": "4", "MESSAGE": ["torknock", "torknock"]},
        ]
        text = tor_log.from_journal("\n".join(["-- no entries --", *map(json.dumps, entries)]))
        self.assertEqual(len(text.splitlines()), 2)
        found = tor_log.judge(text)
        self.assertEqual(found.state, State.NOT_OK)
        self.assertIn("no nft", found.why)

    def test_a_log_that_is_no_file(self) -> None:
        """tor's user could put a pipe or a device there: it is said, and nothing waits."""
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        os.mkfifo(directory / "pipe")
        (directory / "zero").symlink_to("/dev/zero")
        for name in ("pipe", "zero"):
            looking = tor_log.log(cast(Any, None), [f"notice file {directory / name}"])
            found = self.successResultOf(Deferred.fromCoroutine(looking))
            self.assertEqual(found.state, State.UNKNOWN)
            self.assertIn("no regular file", found.why)


class TorTests(SynchronousTestCase):
    """tor's configuration."""

    def test_a_public_listener_is_found(self) -> None:
        """As tor says it, or as the kernel does; its address is not repeated."""
        public = Listening(IPv4Address("192.0.2.7"), 9051, 1)
        local = Listening(IPv6Address("::1"), 9001, 2)
        for said, listening, state in (
            (["127.0.0.1:9001", "[::1]:9001"], [local], State.OK),
            (["0.0.0.0:9001"], [local], State.NOT_OK),
            (["[::]:9001"], [local], State.NOT_OK),
            (["127.0.0.1:9001"], [public, local], State.NOT_OK),
            (["127.0.0.1:9001"], None, State.UNKNOWN),
            ([], [], State.NOT_OK),
        ):
            found = tor.or_port(facts(said), listening)
            self.assertEqual(found.state, state, said)
            self.assertNotIn("192.0.2.7", found.why)

    def test_each_missing_option_of_a_bridge_is_named(self) -> None:
        """Each that is missing is named with the line that mends it."""
        well = {
            "BridgeRelay": "1", "AssumeReachable": "1", "PublishServerDescriptor": "0", "ExtORPort": "auto",
            "ServerTransportPlugin": "obfs4,torknock exec /usr/local/bin/torknock server",
        }  # fmt: skip
        self.assertEqual({found.state for found in tor.bridge_options(facts(**well))}, {State.OK})
        for name in well:
            found = tor.bridge_options(facts(**{other: well[other] for other in well if other != name}))
            wrong = [each for each in found if each.state is State.NOT_OK]
            self.assertEqual(len(wrong), 1, name)
            self.assertIn(f"torrc: {name} ", wrong[0].remedy)
            self.assertTrue(wrong[0].remedy.startswith("as root: torknock setup bridge"), wrong[0].remedy)

    def test_a_transport_that_does_not_run(self) -> None:
        """tor is to be reloaded, but not while it has no network: it then starts the transport by itself."""
        self.assertIn("reload tor", tor.running(Side.BRIDGE, None).remedy)
        without_network = tor.running(Side.BRIDGE, None, refusing(hibernating="", interval_end="", disabled="1"))
        self.assertIn("DisableNetwork", without_network.why)
        self.assertIn("do not restart tor", without_network.remedy)
        self.assertNotIn("reload", without_network.remedy)


class PortTests(SynchronousTestCase):
    """The protected port."""

    def test_a_posture_fits_if_unused_ports_do_the_same(self) -> None:
        """Closed among closed ports, filtered among dropped ones; a decoy anywhere; neither among rejected ones."""
        for fate, fitting in (
            (Fate.PASSED, Posture.CLOSED),
            (Fate.DROPPED, Posture.FILTERED),
            (Fate.REJECTED, None),
            (Fate.RESET, None),
            (Fate.ANSWERED, None),
            (Fate.TAKEN, None),
        ):
            for posture in Posture:
                found = port.fits(posture, [Judgement(frozenset({fate}))] * 3)
                fits = posture in (fitting, Posture.DECOY)
                self.assertEqual(found.state, State.OK if fits else State.NOT_OK, (fate, posture))
                if not fits and fitting is not None:
                    self.assertIn(f"posture={fitting.value}", found.remedy)

    def test_what_cannot_be_judged_is_unknown(self) -> None:
        """Whether one judgement is open, or they differ."""
        either = Judgement(frozenset({Fate.PASSED, Fate.DROPPED}), ("rule 7 in chain inet own input",))
        passed, dropped = (Judgement(frozenset({fate})) for fate in (Fate.PASSED, Fate.DROPPED))
        self.assertEqual(port.fits(Posture.CLOSED, [either]).state, State.UNKNOWN)
        self.assertEqual(port.fits(Posture.CLOSED, [passed, dropped]).state, State.UNKNOWN)
        found = port.let_in(443, [(4, passed), (6, either)])
        self.assertEqual(found.state, State.UNKNOWN)
        self.assertIn("rule 7", found.remedy)
        self.assertEqual(port.let_in(443, [(4, either), (6, dropped)]).state, State.NOT_OK)

    def test_what_takes_a_port_is_named(self) -> None:
        """Whatever the kernel says of it; what answers in its stead is a fault, too."""
        passed, answered = (Judgement(frozenset({fate})) for fate in (Fate.PASSED, Fate.ANSWERED))
        found = port.let_in(443, [(4, passed)], "rule 4 in chain ip nat PREROUTING")
        self.assertEqual(found.state, State.NOT_OK)
        self.assertIn("rule 4 in chain", found.remedy)
        found = port.let_in(443, [(4, passed), (6, answered)])
        self.assertEqual(found.state, State.NOT_OK)
        self.assertIn("answered with a SYN-ACK", found.why)

    def test_only_the_decoy_and_the_filter_may_listen(self) -> None:
        """Nobody, but the operator's service for a decoy, and the transport that filters."""
        theirs = Listening(IPv4Address(0), 443, 7)
        none: frozenset[int] = frozenset()
        self.assertEqual(port.listeners(443, Posture.CLOSED, [], none).state, State.OK)
        self.assertEqual(port.listeners(443, Posture.CLOSED, [theirs], none).state, State.NOT_OK)
        self.assertEqual(port.listeners(443, Posture.FILTERED, [theirs], frozenset({7})).state, State.OK)
        self.assertEqual(port.listeners(443, Posture.FILTERED, [theirs], None).state, State.UNKNOWN)
        self.assertEqual(port.listeners(443, Posture.FILTERED, [], None).state, State.OK)
        self.assertEqual(port.listeners(443, Posture.DECOY, [theirs], none).state, State.OK)
        self.assertEqual(port.listeners(443, Posture.DECOY, [], none).state, State.NOT_OK)


class OpensTests(SynchronousTestCase):
    """What the running bridge says."""

    def test_a_port_that_is_closed_to_lines(self) -> None:
        """Why, and what to do; other warnings are for `torknock status`."""
        guessing = Warned(Trouble.GUESSING, "somebody guesses")
        self.assertEqual(port.opens([guessing]).state, State.OK)
        found = port.opens([guessing, Warned(Trouble.CLOSED, "the port is closed: the clock is behind; set it")])
        self.assertEqual((found.state, found.why), (State.NOT_OK, "the port is closed: the clock is behind; set it"))
        self.assertIn("tor's log", found.remedy)


class ProcessTests(SynchronousTestCase):
    """What /proc tells of others."""

    def test_any_name_that_a_process_gives_itself(self) -> None:
        """Octets that are no text, and what looks like a line of /proc's own, change nothing of what is told."""
        program = "import sys; open('/proc/self/comm', 'wb').write(bytes.fromhex(sys.argv[1])); print(); input()"
        for name in (b"\xe7\xff", b"\x0cUid:\t77\t77", b"a\\nCapEff:\tff", "\u2028Gid:\t7\t7".encode()):
            command = [sys.executable, "-c", program, name.hex()]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
                assert other.stdout is not None
                other.stdout.readline()
                found, own = proc.process(other.pid), proc.process(os.getpid())
                self.assertIsNone(proc.transport_of(other.pid, "server"))
                other.communicate(b"\n")
            self.assertEqual(replace(found, pid=own.pid, parent=own.parent, words=own.words), own)
            self.assertEqual((found.parent, found.words[-1]), (own.pid, name.hex()))


class HostTests(SynchronousTestCase):
    """Privilege and confinement."""

    def process(self, **differences: object) -> Process:
        """A tor as Debian's unit starts it."""
        return replace(Process(1, 1, 109, frozenset({115}), False, True, ("tor",)), **differences)  # type: ignore[arg-type]

    def served(self, mode: int) -> str:
        """The path of a Unix socket that answers."""
        path: str = self.mktemp()
        serving = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(serving.close)
        serving.bind(path)
        os.chmod(path, mode)
        serving.listen()
        return path

    def test_the_transport_or_the_service_has_the_capability(self) -> None:
        """The transport itself, else the service; else a bridge filters, unless another posture was asked for."""
        able, unable, nowhere = self.process(may_administer_network=True), self.process(), self.mktemp()
        for side, transport, helper, posture, state, filtering in (
            (Side.BRIDGE, able, nowhere, None, State.OK, False),
            (Side.BRIDGE, unable, self.served(0o666), None, State.OK, False),
            (Side.BRIDGE, unable, self.served(0o600), None, State.NOT_OK, False),
            (Side.BRIDGE, unable, nowhere, None, State.OK, True),
            (Side.BRIDGE, unable, nowhere, "filtered", State.OK, True),
            (Side.BRIDGE, unable, nowhere, "closed", State.NOT_OK, False),
            (Side.CLIENT, unable, nowhere, None, State.NOT_OK, False),
            (Side.CLIENT, unable, self.served(0o666), None, State.OK, False),
        ):
            for found in (
                host.power(side, helper, transport, None, posture),
                host.power(side, helper, None, transport, posture),
            ):
                self.assertEqual((found.finding.state, found.filtering), (state, filtering), (side, posture))
        unseen = host.power(Side.BRIDGE, nowhere, None, None, None)
        self.assertEqual((unseen.finding.state, unseen.filtering), (State.UNKNOWN, False))
        self.assertIn("NoNewPrivileges", host.power(Side.CLIENT, nowhere, unable, None, None).finding.why)

    def test_knock_lines_need_a_filtered_port(self) -> None:
        """And somebody who may judge them."""
        for posture, filtering, state in (
            (Posture.FILTERED, False, State.OK),
            (Posture.FILTERED, True, State.NOT_OK),
            (Posture.CLOSED, False, State.NOT_OK),
            (Posture.DECOY, False, State.NOT_OK),
        ):
            self.assertEqual(bridge_keyring.knock_lines(posture, filtering).state, state, posture)
        self.assertIn("--posture filtered", bridge_keyring.knock_lines(Posture.CLOSED, False).remedy)

    def test_the_consensus_shows_clocks_that_are_hours_wrong(self) -> None:
        """And no others: knocks need it right within minutes."""
        valid = ("2026-11-23 19:00:00", "2026-11-23 22:00:00")
        seven = 1795460400.0  # 2026-11-23 19:00:00 UTC
        for now, state in ((seven - 1, State.NOT_OK), (seven + 60, State.OK), (seven + 10801, State.NOT_OK)):
            self.assertEqual(host.dated(now, valid).state, state)
        for nothing in (None, ("", "")):
            self.assertEqual(host.dated(seven, nothing).state, State.UNKNOWN)

    def test_only_a_profile_that_is_enforced_needs_rules_for_torknock(self) -> None:
        """Only a profile that is enforced counts, and lines for torknock that are no comment."""
        rules = Path(self.mktemp())
        self.assertEqual(host.apparmor(None, rules).state, State.UNKNOWN)
        for label in ("", "system_tor (complain)"):
            self.assertEqual(host.apparmor(label, rules).state, State.OK)
        for text, state in (
            ("", State.NOT_OK),
            ("  # /usr/local/bin/torknock PUx,\n", State.NOT_OK),
            ("/usr/local/bin/torknock PUx,\n", State.OK),
        ):
            rules.write_text(text)
            self.assertEqual(host.apparmor("system_tor (enforce)", rules).state, state, text)

    def test_the_profile_that_is_loaded_again_is_the_one_that_was_changed(self) -> None:
        """tor's own, or that of the tor of Tor Browser."""
        profiles = Path(self.mktemp()).absolute()
        for name in (APPARMOR_TOR.name, APPARMOR_TOR_BROWSER.name):
            remedy = host.apparmor(f"{name} (enforce)", profiles / "local" / name).remedy
            self.assertIn(f"apparmor_parser -r {profiles / name}", remedy)


class FilesTests(SynchronousTestCase):
    """How many files may be open."""

    def test_a_limit_of_open_files_is_judged_by_the_connections_it_allows(self) -> None:
        """A bridge with the usual soft limit is short of them; its gate service, and a client, are not."""
        for limits, state, said in (
            ([("server", 65_536), ("gate", 1_024)], State.OK, "65,536, enough for 32,704 clients"),
            ([("server", 1_024), ("gate", 1_024)], State.NOT_OK, "1,024, enough for 448 clients"),
            ([("server", 65_536), ("gate", 256)], State.NOT_OK, "256, enough for 16 programs"),
            ([("client", 1_024), ("dial", 65_536)], State.OK, "65,536, enough for 256 programs"),
            ([("client", 200)], State.NOT_OK, "200, enough for 18 connections of tor's"),
        ):
            finding = judge_files(limits)
            self.assertEqual((finding.state, "LimitNOFILE=" in finding.remedy), (state, state is State.NOT_OK))
            self.assertIn(said, finding.why)

    def test_the_limit_of_a_process(self) -> None:
        """The kernel tells it of each; of what does not run nothing is said."""
        with subprocess.Popen(["prlimit", "--nofile=300:300", "cat"], stdin=subprocess.PIPE) as running:
            while may_open_files(running.pid) != 300:
                time.sleep(0.01)
            [finding] = files([("server", process(running.pid)), ("gate", None)])
            self.assertIn("torknock server may open 300, enough for 86 clients at once", finding.why)
        self.assertEqual(files([("client", None), ("dial", None)]), [])


class AccessTests(SynchronousTestCase):
    """What root lets the gate service guard."""

    door = Entry(EVERYWHERE, 443, Posture.FILTERED, "debian-tor")

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_a_door_must_be_listed_as_torrc_has_it(self) -> None:
        """It has the door as torrc has it; else what to do is said."""
        for text, state, told in (
            (str(self.door), State.OK, "lets debian-tor guard port 443 as filtered"),
            (str(replace(self.door, posture=Posture.CLOSED)), State.NOT_OK, "otherwise than torrc"),
            (str(replace(self.door, user="root")), State.NOT_OK, "does not have port 443 for debian-tor"),
            ("[[door", State.NOT_OK, "no TOML"),
            (None, State.NOT_OK, "there is no"),
        ):
            with self.subTest(told=told):
                self.path.unlink(missing_ok=True)
                if text is not None:
                    self.path.write_text(text)
                found = permissions.listed(self.door, self.path, (0, os.geteuid()))
                self.assertEqual(found.state, state)
                self.assertIn(told, found.why)
                self.assertEqual(bool(found.remedy), state is not State.OK)
