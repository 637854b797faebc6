"""Tests of which tor a set-up is for, and what it does with one that does not run: debian_tor, place, this_host."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from tests.support.host_tree import HostTreeCase
from tests.support.own_tor import TORKNOCK
from torknock.kernel.proc import started_at
from torknock.operate.setup import bridge_only, debian_tor, place, this_host
from torknock.operate.setup.bridge_only import is_client, undo_and_connect, undo_and_stop, use_bridge
from torknock.operate.setup.changes import CannotChange, CannotSetUp, Change, Reader
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.place import Place, place_at
from torknock.operate.setup.record import Record
from torknock.operate.setup.this_host import Host
from torknock.operate.setup.torrc_options import HEAD, client_options
from torknock.protocol.bridge_line import BridgeLine, Line, parse_address, parse_fingerprint
from torknock.tor.control import tor_at
from torknock.tor.inspect import TorUnreachable

SELF = pwd.getpwuid(os.geteuid()).pw_name


class AtRestTests(HostTreeCase):
    """Debian's tor while it does not run."""

    def setUp(self) -> None:
        super().setUp()
        self.tor = self.own_tor("BridgeRelay 1", "ORPort 127.0.0.1:auto", "ExtORPort auto")
        self.patch(debian_tor, "CONTROL", self.tor.control)
        self.patch(debian_tor, "TOR_USER", "torknock-user-of-no-host")

    def test_it_is_stopped_until_it_runs(self) -> None:
        """At its own control socket alone."""
        self.assertTrue(debian_tor.is_stopped(self.tor.control))
        self.assertFalse(debian_tor.is_stopped("127.0.0.1:9051"))
        self.tor.start()
        self.assertFalse(debian_tor.is_stopped(self.tor.control))
        self.tor.stop()
        self.torrc.unlink()
        self.assertFalse(debian_tor.is_stopped(self.tor.control))

    def test_a_tor_with_its_control_socket_elsewhere_runs_all_the_same(self) -> None:
        """One of Debian's user, in this network."""
        self.tor.start()
        self.patch(debian_tor, "TOR_USER", SELF)
        nowhere = str(self.host / "nowhere")
        self.patch(debian_tor, "CONTROL", nowhere)
        self.assertFalse(debian_tor.is_stopped(nowhere))

    def test_its_facts_are_those_of_its_torrc(self) -> None:
        """As the command tor reads it."""
        torrc = f"BridgeRelay 1\nORPort 127.0.0.1:auto\nExtORPort auto\nDataDirectory {self.tor.data}\n"
        self.torrc.write_text(torrc)
        facts = debian_tor.configured_facts()
        self.assertGreaterEqual(facts.version[:2], (0, 4))
        self.assertEqual((facts.option("BridgeRelay"), facts.option("ExtORPort")), ("1", "auto"))
        self.assertEqual(facts.data_directory, self.tor.data)
        self.assertEqual((facts.or_listeners, facts.pid, facts.bootstrapped), (("127.0.0.1:auto",), None, None))

    def test_where_it_will_listen(self) -> None:
        """As `ORPort` says it."""
        ipv6 = "[::1]:9001"
        for port, where in (("9001", "0.0.0.0:9001"), ("0", None), (f"{ipv6} IPv6Only", ipv6), ("9001 NoListen", None)):
            self.assertEqual(debian_tor._listener(port), where)

    def test_a_torrc_that_it_would_refuse_is_reported(self) -> None:
        """With the reason that tor gives."""
        self.torrc.write_text(self.torrc.read_text() + "ORPort nowhere\n")
        with self.assertRaisesRegex(CannotSetUp, f"does not take its configuration \\({self.torrc}\\) as it is: "):
            debian_tor.configured_facts()

    def test_without_systemd_it_is_started_by_hand(self) -> None:
        """And nothing holds it back."""
        self.assertFalse(debian_tor.start())
        self.assertFalse(debian_tor.release())

    def test_a_tor_that_is_stopped_has_ended(self) -> None:
        """A second time there is none to stop."""
        self.tor.start()
        pid = self.tor.pid
        self.assertFalse(debian_tor.stop(self.tor.control, None))
        self.assertIsNone(started_at(pid))
        self.assertFalse(debian_tor.stop(self.tor.control, None))

    def test_a_tor_that_may_not_be_asked_is_not_stopped(self) -> None:
        """The reason is raised."""
        self.torrc.write_text(self.torrc.read_text() + f"HashedControlPassword 16:{'0' * 58}\n")
        self.tor.start()
        self.assertRaisesRegex(TorUnreachable, "asks for a password", debian_tor.stop, self.tor.control, None)


class ClientTests(HostTreeCase):
    """A client's tor, on its way to a bridge and back."""

    def setUp(self) -> None:
        super().setUp()
        self.tor = self.own_tor()
        self.place = Place(self.torrc, "")
        where = parse_address("127.0.0.1:9")
        line = Line(bytes(range(32)), bytes(range(32, 64)))
        self.bridge = BridgeLine(*where, parse_fingerprint("4352E58420E68F5E40BF7C74FADDCCD9D1349413"), line)

    def changes(self, more: str = "") -> list[Change]:
        """What makes a client of this host's tor."""
        with tor_at(self.tor.control, None) as tor:
            host = Host(self.place, tor.user, TORKNOCK, systemd=False, apparmor=False)
            options = HEAD + client_options(tor.facts(), self.bridge, "", host) + more
        return [
            File(str(self.snippet), options, 0o640, self.group, Reader.TOR),
            Block(str(self.torrc), f"%include {self.snippet}\n", Reader.TOR),
        ]

    def test_a_client_whose_transport_does_not_start_keeps_its_bridge(self) -> None:
        """It has no capability here; tor connects to nothing else, and an undo stops it."""
        self.tor.start()
        before = self.files()
        with tor_at(self.tor.control, None) as tor, self.place.record.locked():
            with self.assertRaisesRegex(CannotSetUp, "lacks CAP_NET_ADMIN.*; the bridge stays configured"):
                use_bridge(self.changes(), tor, self.place.record, self.bridge)
            self.assertEqual(tor.facts().option("UseBridges"), "1")
            self.assertTrue(is_client(self.place.record))
            told = list(undo_and_stop(self.place, self.tor.control, None))
        self.assertEqual(told[-1], "tor is stopped; once it is started, it connects to the Tor network directly")
        self.assertEqual(self.files(), before)
        self.assertIsNone(started_at(self.tor.pid))
        self.assertFalse(is_client(self.place.record))

    def test_a_torrc_that_would_connect_directly_is_not_taken_up(self) -> None:
        """Nothing is configured, and tor's network stays off until it is reloaded."""
        self.tor.start()
        before = self.files()
        with tor_at(self.tor.control, None) as tor, self.place.record.locked():
            with self.assertRaisesRegex(CannotSetUp, "connect directly.*nothing is configured. tor's network stays"):
                use_bridge(self.changes("UseBridges 0\n"), tor, self.place.record, self.bridge)
            self.assertTrue(tor.network_disabled)
        self.assertEqual(self.files(), before)

    def test_a_bridge_that_does_not_answer_is_named_as_the_reason(self) -> None:
        """Once it was waited for."""
        self.patch(bridge_only, "_USED_WITHIN", 0.1)
        self.tor.start()
        with tor_at(self.tor.control, None) as tor:
            self.assertRaisesRegex(CannotSetUp, "the bridge has not answered", bridge_only._wait, tor, self.bridge)

    def test_a_direct_undo_leaves_tor_running(self) -> None:
        """With its former configuration."""
        self.tor.start()
        with self.place.record.locked():
            with self.place.record.making(self.changes()):
                pass
            self.assertEqual(list(undo_and_connect(self.place, self.tor.control, None)), [])
        self.assertIsNotNone(started_at(self.tor.pid))


class PlaceTests(HostTreeCase):
    """Which tor an undo is for."""

    def other(self, name: str) -> None:
        """Have another tor set up."""
        record = Record(self.record_path.with_name(f"setup-{name}.json"))
        with record.locked(), record.making([File(str(self.host / name), "x\n")]):
            pass

    def test_the_first_tor_is_the_usual_one(self) -> None:
        """Whether it runs or not."""
        control = str(self.host / "control")
        self.patch(place, "CONTROL", control)
        usual = Place.of(place.first())
        self.assertEqual(place_at(control, None), usual)
        record = usual.record
        with record.locked(), record.making([File(str(self.snippet), "x\n", reader=Reader.TOR)]):
            pass
        self.assertEqual(place_at(control, None), usual)

    def test_a_tor_that_answers_names_its_torrc(self) -> None:
        """An instance of Debian's that does not run is known by its control socket."""
        tor = self.own_tor()
        self.patch(place, "TORRC", Path("/etc/tor/torrc"))
        tor.start()
        self.assertEqual(place_at(tor.control, None).config_file, self.torrc)
        instance = place_at("/run/tor-instances/b/control", None)
        self.assertEqual((instance.config_file, instance.name), (Path("/etc/tor/instances/b/torrc"), "b"))

    def test_no_tor_is_guessed_among_several(self) -> None:
        """It is to be started, which names it."""
        self.other("b")
        with self.assertRaisesRegex(CannotChange, "no tor answers at .*, and several are set up here; start it"):
            place_at(str(self.host / "nowhere"), None)


class HostTests(HostTreeCase):
    """What a plan depends on."""

    def test_a_running_tor_tells_its_user_and_torrc(self) -> None:
        """The program is tried as that user."""
        tor = self.own_tor()
        tor.start()
        with tor_at(tor.control, None) as running:
            host = Host.of(running, self.program)
        self.assertEqual((host.tor_user, host.place.config_file, host.systemd), (SELF, self.torrc, False))

    def test_a_program_that_tor_cannot_start_is_refused(self) -> None:
        """A space in its path, or a program that does not run."""
        with self.assertRaisesRegex(CannotSetUp, "because of the space in it; install torknock elsewhere"):
            Host.of(None, Path("/opt/tor knock/torknock"))
        self.patch(this_host, "TOR_USER", SELF)
        with self.assertRaisesRegex(CannotSetUp, f"{SELF} cannot run /bin/false"):
            Host.of(None, Path("/bin/false"))

    def test_a_user_that_does_not_exist_yet_tries_nothing(self) -> None:
        """It is made later."""
        self.patch(this_host, "TOR_USER", "torknock-user-of-no-host")
        self.assertEqual(Host.of(None, Path("/bin/false")).program, Path("/bin/false"))

    def test_a_program_that_others_can_replace_is_refused(self) -> None:
        """Root's services are started from it."""
        self.patch(this_host, "TOR_USER", "torknock-user-of-no-host")
        self.program.parent.chmod(0o777)
        with self.assertRaisesRegex(CannotSetUp, f"{self.program.parent} can be changed by users other than root"):
            Host.of(None, self.program)
        link = self.host / "torknock"
        link.symlink_to(self.program)
        with self.assertRaisesRegex(CannotSetUp, "install torknock in a place of root's"):
            Host.of(None, link)
