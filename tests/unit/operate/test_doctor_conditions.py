"""Tests of single conditions of `torknock doctor` that need no tor: what is found of what was seen."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.unit.operate.test_doctor import facts
from torknock.kernel.proc import Process, process
from torknock.keyring.lines import Keyring
from torknock.operate.doctor import bridge_keyring, examine, host, own, permissions, tor, torrc_file
from torknock.operate.finding import State
from torknock.operate.setup import daemons
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import BridgeLine, Line, Scheme, parse_address, write_bridge_line
from torknock.protocol.door import Posture
from torknock.service.access import EVERYWHERE, Entry, silence
from torknock.tor.inspect import TorFacts

DOOR = Entry(EVERYWHERE, 443, Posture.FILTERED, "debian-tor")
LINE = write_bridge_line(BridgeLine(*parse_address("192.0.2.7:443"), "A" * 40, Line(bytes(32), bytes(32))))


class ConditionCase(SynchronousTestCase):
    """With a directory."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)


class TorTests(SynchronousTestCase):
    """What tor says of itself."""

    def test_an_old_tor_is_not_ok(self) -> None:
        """0.4.5 is the first that is."""
        for number, state in (((0, 4, 4, 9), State.NOT_OK), ((0, 4, 5, 6), State.OK)):
            old = TorFacts(number, 1, {}, (), 100, True, None)
            self.assertIs(tor.version(old).state, state)

    def test_the_part_of_the_bootstrap_that_is_done_is_named(self) -> None:
        """Whether it is known or not."""
        for done, state, told in (
            (100, State.OK, "in the Tor network"),
            (45, State.NOT_OK, "45 %"),
            (None, State.NOT_OK, "an unknown"),
        ):
            found = tor.bootstrapped(TorFacts((0, 4, 9), 1, {}, (), done, True, None))
            self.assertIs(found.state, state)
            self.assertIn(told, found.why)

    def test_a_transport_is_registered_or_not_or_tor_does_not_say(self) -> None:
        """Each is told apart."""
        for registered, state in ((True, State.OK), (False, State.NOT_OK), (None, State.UNKNOWN)):
            found = tor.registered(TorFacts((0, 4, 9), 1, {}, (), 100, registered, None))
            self.assertIs(found.state, state)

    def test_a_tor_that_refuses_clients_says_why(self) -> None:
        """The port is closed meanwhile."""
        self.assertIs(tor.takes_clients(facts()).state, State.OK)
        found = tor.takes_clients(TorFacts((0, 4, 9), 1, {}, (), 100, True, None, "hibernates until noon"))
        self.assertIs(found.state, State.NOT_OK)
        self.assertIn("tor hibernates until noon", found.why)

    def test_an_or_port_that_tor_has_closed_for_now_is_unknown(self) -> None:
        """It says so itself."""
        closed = TorFacts((0, 4, 9), 1, {}, (), 100, True, None, "hibernates")
        self.assertIs(tor.or_port(closed, []).state, State.UNKNOWN)
        self.assertIs(tor.or_port(facts(["unix:/run/tor/or"]), []).state, State.OK)

    def test_options_of_a_client_that_keep_it_from_knocking_are_named(self) -> None:
        """A proxy, no plugin, no line, or a line that was mangled."""
        plugin = "torknock exec /usr/local/bin/torknock client"
        well = facts(UseBridges="1", ClientTransportPlugin=plugin, Bridge=LINE.removeprefix("Bridge "))
        self.assertEqual({found.state for found in tor.client_options(well)}, {State.OK})
        for wrong, name, told in (
            ({"Socks5Proxy": "127.0.0.1:9"}, "proxy", "Socks5Proxy is set, and a knock does not pass a proxy"),
            ({"ClientTransportPlugin": "obfs4 exec /x"}, "transport", "torrc names no transport torknock"),
            ({"Bridge": "obfs4 192.0.2.7:443"}, "bridge lines", "torrc has none of torknock"),
            ({"Bridge": "torknock 192.0.2.7:443 key=short"}, "bridge lines", "1 of 1 cannot be read"),
            ({"UseBridges": "0"}, "UseBridges", "tor does not use bridges"),
        ):
            options = {name: value[0] for name, value in well.options.items()} | wrong
            found = {each.name: each for each in tor.client_options(facts(**options))}
            self.assertIs(found[name].state, State.NOT_OK, name)
            self.assertIn(told, found[name].why)

    def test_a_line_of_scheme_knock_is_noticed(self) -> None:
        """It needs timestamps."""
        self.assertFalse(tor.uses_knocks(facts(Bridge=LINE.removeprefix("Bridge "))))
        self.assertTrue(tor.uses_knocks(facts(Bridge="torknock 192.0.2.7:443 scheme=knock key=AAAA")))


class KeyringTests(ConditionCase):
    """The keyring of a bridge."""

    def keyring(self, user: Process | None = None) -> dict[str, tuple[State, str]]:
        """What is found of it."""
        found = bridge_keyring.keyring(self.directory / "k", user, time.time())
        return {each.name: (each.state, each.why) for each in found}

    def test_a_keyring_and_its_lines_are_found(self) -> None:
        """None at all, none that is live, and live ones with the tokens that they may have."""
        self.assertEqual(self.keyring()["keyring"], (State.NOT_OK, "there is no keyring"))
        with Keyring.open(self.directory / "k", create=True) as keyring:
            keyring.add("old", expires=2, now=1)
        self.assertEqual(self.keyring()["lines"], (State.NOT_OK, "none of 1 lines is live"))
        with Keyring.open(self.directory / "k", create=False) as keyring:
            keyring.add("alice", expires=None, now=1)
        state, why = self.keyring()["lines"]
        self.assertEqual((state, why.partition(":")[0]), (State.OK, "1 of 2 live, with at most 24 tokens"))
        self.assertFalse(bridge_keyring.has_knocks(self.directory / "k", time.time()))

    def test_a_knock_counts_as_what_it_may_be(self) -> None:
        """One ISN at a time; with integrity 16 bits of it are of the payload."""
        with Keyring.open(self.directory / "k", create=True) as keyring:
            keyring.add("carol", scheme=Scheme.KNOCK, secret=b"one", expires=None, now=1)
            keyring.add("dave", scheme=Scheme.KNOCK, secret=b"two", integrity=4, expires=None, now=1)
        self.assertIn("at most 65,537 tokens", self.keyring()["lines"][1])
        self.assertTrue(bridge_keyring.has_knocks(self.directory / "k", time.time()))

    def test_a_keyring_of_another_user_or_that_others_read_is_not_ok(self) -> None:
        """tor's transport could not use the first; anyone could copy the second."""
        with Keyring.open(self.directory / "k", create=True):
            pass
        other = replace(process(os.getpid()), uid=os.geteuid() + 1)
        self.assertIn("belongs to a user other than tor's", self.keyring(other)["keyring"][1])
        [file] = (self.directory / "k").glob("*.sqlite")
        file.chmod(0o644)
        self.assertIn("users other than its owner may read it", self.keyring()["keyring"][1])

    def test_a_file_that_is_no_keyring_is_named(self) -> None:
        """It is not replaced."""
        with Keyring.open(self.directory / "k", create=True):
            pass
        [file] = (self.directory / "k").glob("*.sqlite")
        file.write_bytes(b"nonsense" * 1000)
        self.assertIs(self.keyring()["keyring"][0], State.NOT_OK)


class PowerTests(ConditionCase):
    """Which process has the capability, or the service that a transport without it asks."""

    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "gate.sock")
        self.without = replace(process(os.getpid()), may_administer_network=False, no_new_privileges=True)

    def test_a_service_that_answers_and_may_be_opened_is_enough(self) -> None:
        """Where the socket's rights keep tor's user out, they are to be restored."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path)
            listening.listen()
            found = host.power(Side.BRIDGE, self.path, self.without, None, None).finding
            self.assertEqual((found.state, "(tor's unit has NoNewPrivileges)" in found.why), (State.OK, True))
            os.chmod(self.path, 0o600)
            other = replace(self.without, uid=os.geteuid() + 1, groups=frozenset())
            found = host.power(Side.BRIDGE, self.path, other, None, None).finding
            self.assertIs(found.state, State.NOT_OK)
            self.assertIn("which tor's user may not open", found.why)

    def test_without_a_service_a_bridge_filters_and_a_client_cannot_knock(self) -> None:
        """A bridge of another posture cannot filter; one that is not seen is unknown."""
        filters = host.power(Side.BRIDGE, self.path, self.without, None, "filtered")
        self.assertEqual((filters.finding.state, filters.filtering), (State.OK, True))
        for side, posture in ((Side.BRIDGE, "closed"), (Side.CLIENT, None)):
            found = host.power(side, self.path, self.without, None, posture).finding
            self.assertIs(found.state, State.NOT_OK, side)
        self.assertIs(host.power(Side.BRIDGE, self.path, None, None, None).finding.state, State.UNKNOWN)

    def test_a_transport_with_the_capability_asks_no_service(self) -> None:
        """Whatever the service does."""
        able = replace(self.without, may_administer_network=True)
        self.assertIs(host.power(Side.CLIENT, self.path, able, None, None).finding.state, State.OK)

    def test_processes_of_an_older_version_are_to_be_restarted(self) -> None:
        """By a set-up."""
        self.patch(daemons, "_is_ours", lambda _pid: True)
        self.patch(daemons, "_installed_at", lambda: 2.0**40)
        running = replace(self.without, words=("python", "/usr/local/bin/torknock", "server"))
        found = host.versions(Side.BRIDGE, running, None)
        self.assertIs(found.state, State.NOT_OK)
        self.assertIn("torknock server", found.why)
        self.assertIs(host.versions(Side.BRIDGE, None).state, State.OK)


class HostTests(ConditionCase):
    """The kernel's settings."""

    def test_settings_that_keep_clients_out_are_not_ok(self) -> None:
        """SYN cookies for all, and no timestamps for knocks; a setting that cannot be read is unknown."""
        self.patch(host, "SYSCTLS_IPV4", self.directory)
        self.assertIs(host.kernel()[-1].state, State.UNKNOWN)
        for value, state in (("2\n", State.NOT_OK), ("1\n", State.OK), ("nonsense", State.UNKNOWN)):
            (self.directory / "tcp_syncookies").write_text(value)
            self.assertIs(host.kernel()[-1].state, state, value)
        for value, state in (("0\n", State.NOT_OK), ("1\n", State.OK)):
            (self.directory / "tcp_timestamps").write_text(value)
            self.assertIs(host.timestamps().state, state, value)


class OwnTorTests(ConditionCase):
    """A tor of a person's own."""

    def test_the_service_must_answer(self) -> None:
        """A path that leads to none is named with the set-up of that user."""
        self.patch(own, "DIAL_SOCKET", str(self.directory / "dial.sock"))
        self.assertEqual(own._service("alice").remedy, "as root: torknock setup client --user alice")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.directory / "dial.sock"))
            listening.listen()
            self.assertIs(own._service("alice").state, State.OK)

    def test_a_member_whose_tor_is_older_than_the_membership_logs_in_again(self) -> None:
        """root needs none; a user who is no member is to be set up."""
        self.assertIs(own._member("root", 1, None).state, State.NOT_OK)
        self.patch(own, "_GROUP", "root")
        self.assertIs(own._member("root", 0, None).state, State.OK)
        self.assertIs(own._member("torknock-user-of-no-host", 1, None).state, State.NOT_OK)


class AccessListTests(ConditionCase):
    """What root lets the gate service guard."""

    def test_a_list_that_is_missing_is_to_be_set_up(self) -> None:
        """Whoever asks."""
        found = permissions.listed(DOOR, Path("/etc/torknock-nowhere/gate.toml"))
        self.assertEqual((found.state, found.remedy), (State.NOT_OK, "as root: torknock setup bridge"))

    def test_a_filtered_door_is_silent_from_boot_on(self) -> None:
        """The rules are there, have the port, and are loaded by a unit that is enabled."""
        rules, enabled, systemd = (self.directory / name for name in ("filtered.nft", "enabled", "systemd"))

        def found() -> tuple[State, str]:
            told = permissions.silent_from_boot(DOOR, rules, enabled, systemd)
            return told.state, told.why + told.remedy

        self.assertIn("there is no", found()[1])
        rules.write_text("# nothing\n")
        self.assertIn("does not have port 443", found()[1])
        rules.write_text(silence([DOOR]))
        self.assertIn("nft -f", found()[1])
        systemd.mkdir()
        self.assertIn("is not enabled", found()[1])
        enabled.touch()
        self.assertIs(found()[0], State.OK)
        rules.unlink()
        rules.mkdir()
        self.assertIs(found()[0], State.UNKNOWN)

    def test_a_transport_without_the_capability_needs_its_door_listed(self) -> None:
        """One that has it, and one that filters, need no list; nor does a torrc without a door."""
        user = replace(process(os.getpid()), may_administer_network=False)
        torrc = facts(ServerTransportListenAddr="torknock 0.0.0.0:443")
        names = [each.name for each in examine._access(torrc, Posture.FILTERED, False, user)]
        self.assertEqual(names, ["access list", "silence at boot"])
        self.assertEqual([it.name for it in examine._access(torrc, Posture.CLOSED, False, user)], ["access list"])
        able = replace(user, may_administer_network=True)
        for told, filtering, who in (
            (torrc, True, user),
            (torrc, False, able),
            (torrc, False, None),
            (facts(), False, user),
        ):
            self.assertEqual(examine._access(told, Posture.CLOSED, filtering, who), [])


class TorrcTests(ConditionCase):
    """Debian's torrc on the disk."""

    def test_what_cannot_be_read_is_unknown(self) -> None:
        """It is for root to look."""
        torrc, snippet, hold = (self.directory / name for name in ("torrc", "snippet", "hold"))
        torrc.mkdir()
        self.assertEqual(torrc_file.included(Side.BRIDGE, torrc, snippet), [])
        self.assertIsNone(torrc_file.held(Side.CLIENT, hold, torrc, snippet))
        snippet.touch()
        hold.touch()
        [found] = torrc_file.included(Side.BRIDGE, torrc, snippet)
        self.assertIs(found.state, State.UNKNOWN)
        held = torrc_file.held(Side.CLIENT, hold, torrc, snippet)
        assert held is not None
        self.assertIs(held.state, State.UNKNOWN)
