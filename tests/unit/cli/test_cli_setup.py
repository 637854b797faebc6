"""Tests of `torknock setup` on a directory in the place of a host, with a real tor, as whoever runs the tests."""

from __future__ import annotations

import os
import pwd
import time

from click.testing import CliRunner, Result

from tests.support.host_tree import HostTreeCase
from tests.support.own_tor import TORKNOCK, OwnTor, free_port
from torknock import cli
from torknock.cli import doctor, setup_address
from torknock.kernel.places import keyring_within
from torknock.keyring.lines import Keyring
from torknock.operate import propose
from torknock.operate.finding import Finding, not_ok, ok
from torknock.operate.setup import debian_tor, planned_changes, this_host, torrc_options
from torknock.operate.setup.apply import wait_until
from torknock.operate.setup.changes import Change, Reader
from torknock.operate.setup.doors import ListedDoor, _rules
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.record import Record
from torknock.operate.setup.torrc_options import HEAD
from torknock.protocol.bridge_line import BridgeLine, Line, parse_address, parse_bridge_line, write_bridge_line
from torknock.protocol.door import Posture
from torknock.service.access import EVERYWHERE

SELF = pwd.getpwuid(os.geteuid()).pw_name
LINE = write_bridge_line(BridgeLine(*parse_address("127.0.0.1:9"), "A" * 40, Line(bytes(32), bytes(32))))


class SetUpCase(HostTreeCase):
    """A host whose services run as the one who runs this, and the command."""

    def setUp(self) -> None:
        super().setUp()
        self.port = free_port()
        self.patch(planned_changes, "_SERVICE_USER", SELF)
        self.patch(torrc_options, "taken", lambda *_: "")  # looking at the host's rules needs root

    def torknock(self, *arguments: str, stdin: str = "") -> Result:
        """What the command does."""
        result = CliRunner().invoke(cli.torknock, [*arguments], stdin, prog_name="torknock")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def found(self, *findings: Finding) -> None:
        """Have the doctor find these, once the bridge is set up."""
        self.patch(doctor, "run", lambda _target: list(findings))


class BridgeTests(SetUpCase):
    """`torknock setup bridge`."""

    def by_hand(self) -> OwnTor:
        """A tor that runs, whose torrc an operator has written, and whose door is listed."""
        tor = self.own_tor(
            "Address 192.0.2.7", "BridgeRelay 1", "ORPort 127.0.0.1:auto", "ExtORPort auto",
            f"ServerTransportPlugin torknock exec {TORKNOCK} server --helper /nowhere/gate.sock",
            f"ServerTransportListenAddr torknock 0.0.0.0:{self.port}",
            "ServerTransportOptions torknock posture=filtered",
        )  # fmt: skip
        tor.start()
        self.assertTrue(wait_until(lambda: "Registered server transport 'torknock'" in tor.log.read_text(), 60))
        door = ListedDoor(EVERYWHERE, self.port, "filtered", SELF, SELF, SELF)
        self.access.parent.mkdir()
        self.access.write_text(door._text)
        self.access.with_name("filtered.nft").write_text(_rules(door._text))
        return tor

    def test_a_bridge_that_is_set_up_gets_its_first_line(self) -> None:
        """With its QR code and what to do next; a second call prints the same line, and nothing is changed."""
        tor = self.by_hand()
        before = self.files()
        self.found(ok("tor", "tor runs"))
        result = self.torknock("setup", "bridge", "--yes", "--control", tor.control)
        self.assertEqual(result.exit_code, 0, result.stderr)
        line = parse_bridge_line(result.stdout.partition("\n")[0])
        self.assertEqual((str(line.address), line.port), ("192.0.2.7", self.port))
        self.assertGreater(len(result.stdout.splitlines()), 20)
        self.assertIn("nothing is to be changed", result.stderr)
        self.assertIn("192.0.2.7 is not a public address", result.stderr)
        self.assertIn("torknock check --as-stranger - < line.txt", result.stderr)
        again = self.torknock("setup", "bridge", "--yes", "--control", tor.control)
        self.assertEqual((again.exit_code, again.stdout), (0, result.stdout))
        self.assertEqual(self.files(), before)

    def test_a_fault_that_keeps_clients_out_ends_with_status_1_and_no_code(self) -> None:
        """The line is printed, and what to do about the fault; a posture that stands out is no such fault."""
        tor = self.by_hand()
        self.found(not_ok("firewall", "a SYN is dropped", "let it in"))
        result = self.torknock("setup", "bridge", "--yes", "--control", tor.control)
        self.assertEqual((result.exit_code, len(result.stdout.splitlines())), (1, 1))
        self.assertIn("let it in", result.stderr)
        self.assertIn("torknock line show first --qr", result.stderr)
        self.found(not_ok("posture", "it stands out", "choose another"))
        self.assertEqual(self.torknock("setup", "bridge", "--yes", "--control", tor.control).exit_code, 0)

    def test_an_operator_who_declines_changes_nothing(self) -> None:
        """After all changes were shown."""
        tor = self.own_tor()
        tor.start()
        before = self.files()
        where = ("--address", "192.0.2.7", "--port", str(self.port), "--posture", "closed", "--control", tor.control)
        result = self.torknock("setup", "bridge", *where, stdin="n\n")
        self.assertEqual(result.exit_code, 1)
        for told in (
            f"write {self.snippet}:", f"ServerTransportListenAddr torknock 0.0.0.0:{self.port}", "reload tor",
            f"add to {self.torrc}:", "start, as there is no systemd here",
        ):  # fmt: skip
            self.assertIn(told, result.stderr)
        self.assertEqual(self.files(), before)

    def test_a_tor_at_rest_is_configured_before_it_starts(self) -> None:
        """Declined, nothing is changed, and it stays at rest."""
        tor = self.own_tor()
        self.torrc.write_text(f"DataDirectory {tor.data}\n")
        self.patch(debian_tor, "CONTROL", tor.control)
        self.patch(debian_tor, "TOR_USER", "torknock-user-of-no-host")
        self.patch(this_host, "TOR_USER", SELF)
        before = self.files()
        where = ("--address", "192.0.2.7", "--port", str(self.port), "--posture", "closed", "--control", tor.control)
        result = self.torknock("setup", "bridge", *where, stdin="n\n")
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"write {self.snippet}:", result.stderr)
        self.assertNotIn("reload tor", result.stderr)
        self.assertEqual(self.files(), before)

    def test_what_is_not_given_is_proposed(self) -> None:
        """The posture with its reason, the address for the operator to correct."""
        tor = self.own_tor()
        tor.start()
        proposed = propose.ProposedPosture(
            Posture.FILTERED, "this host's firewall drops what comes to its unused ports"
        )
        self.patch(propose, "propose_posture", lambda: proposed)
        self.patch(propose, "propose_address", lambda _guess: None)
        where = ("--port", str(self.port), "--control", tor.control)
        result = self.torknock("setup", "bridge", *where, stdin="127.0.0.1\n192.0.2.9\nn\n")
        self.assertIn("is a loopback address", result.stderr)
        self.assertIn("posture filtered: this host's firewall drops", result.stderr)
        self.assertIn("Address 192.0.2.9", result.stderr)
        refused = self.torknock("setup", "bridge", *where, "--yes")
        self.assertEqual(refused.exit_code, 2)
        self.assertIn("give --address", refused.stderr)

    def test_lines_in_use_are_not_made_useless_without_a_question(self) -> None:
        """A bridge that moves is said to need new lines; a port that is forwarded stays in them."""
        tor = self.own_tor("BridgeRelay 1", "ORPort 127.0.0.1:auto")
        tor.start()
        with Keyring.open(keyring_within(tor.data), create=True) as keyring:
            keyring.add("alice", expires=None, now=time.time())
            keyring.set_setting("address", "192.0.2.7:8443")
        where = ("--port", str(self.port), "--posture", "closed", "--control", tor.control, "--address")
        result = self.torknock("setup", "bridge", *where, "192.0.2.8", stdin="n\n")
        told = f"1 live line names 192.0.2.7:8443, and opens nothing once the bridge is at 192.0.2.8:{self.port}"
        self.assertIn(told, result.stderr)
        self.assertNotIn("Change this?", result.stderr)
        result = self.torknock("setup", "bridge", *where, "192.0.2.7", stdin="n\n")
        self.assertNotIn("live line", result.stderr)

    def test_an_address_that_no_client_reaches_is_refused(self) -> None:
        """With the reason."""
        for address, told in (("bridge.example", "give an IP address"), ("127.255.255.255", "is a loopback address")):
            result = self.torknock("setup", "bridge", "--address", address)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(told, result.stderr)
        self.patch(setup_address, "is_broadcast", lambda _address: True)
        self.assertIn("is the broadcast address", self.torknock("setup", "bridge", "--address", "192.0.2.255").stderr)

    def test_a_tor_that_does_not_run_is_named(self) -> None:
        """In one line; no record is left."""
        result = self.torknock("setup", "bridge", "--yes", "--control", str(self.host / "nowhere"))
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertIn("no tor answers at", result.stderr)
        self.assertFalse(self.record_path.parent.exists())


class ClientTests(SetUpCase):
    """`torknock setup client`."""

    def test_a_file_of_somebody_elses_is_not_replaced(self) -> None:
        """tor's network stays off until it is reloaded; nothing is configured."""
        tor = self.own_tor()
        tor.start()
        self.snippet.parent.mkdir()
        self.snippet.write_text("ContactInfo nobody\n")
        before = self.files()
        result = self.torknock("setup", "client", "-", "--control", tor.control, stdin=LINE)
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"{self.snippet} exists already, and torknock did not write it", result.stderr)
        self.assertIn("nothing is configured", result.stderr)
        self.assertNotIn(LINE, result.stderr)
        self.assertEqual(self.files(), before)

    def test_a_tor_at_rest_that_cannot_be_configured_stays_as_it_is(self) -> None:
        """The same fault, before it was started."""
        tor = self.own_tor()
        self.torrc.write_text(f"DataDirectory {tor.data}\n")
        self.patch(debian_tor, "CONTROL", tor.control)
        self.patch(debian_tor, "TOR_USER", "torknock-user-of-no-host")
        self.patch(this_host, "TOR_USER", SELF)
        self.snippet.parent.mkdir()
        self.snippet.write_text("ContactInfo nobody\n")
        before = self.files()
        result = self.torknock("setup", "client", LINE, "--yes", "--control", tor.control)
        self.assertEqual(result.exit_code, 1)
        self.assertIn("torknock did not write it", result.stderr)
        self.assertEqual(self.files(), before)

    def test_a_users_own_tor_gets_nothing_without_consent(self) -> None:
        """What would be changed is shown."""
        result = self.torknock("setup", "client", "--user", SELF, stdin="n\n")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertIn(f"add {SELF} to the group", result.stderr)
        self.assertNotIn("reload tor", result.stderr)
        self.assertFalse(self.record_path.parent.exists())

    def test_a_wrong_call_is_status_2(self) -> None:
        """No line, or one for a user whose torrc is not ours."""
        for arguments, told in (((), "give the bridge line"), (("--user", SELF, LINE), "goes into the torrc of NAME")):
            result = self.torknock("setup", "client", *arguments)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(told, result.stderr)


class UndoTests(SetUpCase):
    """`torknock setup --undo`."""

    def set_up(self, options: str) -> OwnTor:
        """A tor whose torrc has *options* by a set-up."""
        tor = self.own_tor()
        record = Record(self.record_path)
        changes: list[Change] = [
            File(str(self.snippet), HEAD + options, 0o640, self.group, Reader.TOR),
            Block(str(self.torrc), f"%include {self.snippet}\n", Reader.TOR),
        ]
        with record.locked(), record.making(changes):
            pass
        return tor

    def test_a_client_is_asked_and_stopped(self) -> None:
        """Declined, it goes on as it is."""
        tor = self.set_up("UseBridges 1\nBridge 127.0.0.1:9\n")
        record = self.record_path.read_text()
        self.assertIn("UseBridges 1", record)
        declined = self.torknock("setup", "--undo", "--control", tor.control, stdin="n\n")
        self.assertEqual(declined.exit_code, 1)
        self.assertIn("So tor stays stopped", declined.stderr)
        self.assertEqual(self.record_path.read_text(), record)

    def test_a_bridge_is_undone_at_once(self) -> None:
        """tor reads its former configuration."""
        tor = self.set_up("ContactInfo nobody\n")
        tor.start()
        result = self.torknock("setup", "--undo", "--control", tor.control)
        self.assertEqual((result.exit_code, result.stdout), (0, "what setup has changed is undone\n"))
        self.assertFalse(self.snippet.exists())
        self.assertFalse(self.record_path.exists())

    def test_a_tor_that_is_not_set_up_beside_one_that_is_is_not_undone(self) -> None:
        """The other is to be named."""
        other = Record(self.record_path.with_name("setup-b.json"))
        with other.locked(), other.making([File(str(self.host / "b"), "x\n")]):
            pass
        tor = self.own_tor()
        tor.start()
        result = self.torknock("setup", "--undo", "--control", tor.control)
        self.assertEqual(result.exit_code, 2)
        self.assertIn("another tor of this host is: name it with --control", result.stderr)

    def test_a_wrong_call_is_status_2(self) -> None:
        """What goes together is said."""
        for arguments, told in (
            ((), "say bridge, client or --undo"),
            (("--direct",), "--direct goes with --undo"),
            (("--undo", "bridge"), "it goes with no other command"),
        ):
            result = self.torknock("setup", *arguments)
            self.assertEqual(result.exit_code, 2)
            self.assertIn(told, result.stderr)
