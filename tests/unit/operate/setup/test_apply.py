"""Tests of torknock.operate.setup.apply: changes that a real tor takes up, or does not, and the way back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from tests.support.host_tree import HostTreeCase
from tests.support.own_tor import TORKNOCK, free_port
from torknock.kernel.places import keyring_within
from torknock.kernel.proc import transport_of
from torknock.keyring.lines import POSTURE, Keyring
from torknock.operate.setup import apply
from torknock.operate.setup.apply import (
    applying,
    configured,
    first_line,
    ignored_lines,
    start_transport,
    transport_runs,
    undo,
    verify,
    wait_until,
)
from torknock.operate.setup.changes import CannotSetUp, Change, Reader
from torknock.operate.setup.file_changes import Block, File
from torknock.operate.setup.place import Place
from torknock.operate.setup.this_host import Host
from torknock.operate.setup.torrc_options import HEAD, BridgeSettings, bridge_options
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import Scheme, parse_bridge_line
from torknock.protocol.door import Door, Posture
from torknock.service.access import EVERYWHERE
from torknock.tor.control import RunningTor, tor_at


class ApplyCase(HostTreeCase):
    """A tor that runs, and what a set-up changes for it."""

    def setUp(self) -> None:
        super().setUp()
        self.tor = self.own_tor("Address 127.0.0.1")
        self.place = Place(self.torrc, "")
        self.port = free_port()

    def settings(self, name: str = "first") -> BridgeSettings:
        """A hidden bridge on a free port."""
        address = IPv4Address("192.0.2.7")
        return BridgeSettings(address, Door(EVERYWHERE, self.port, Posture.FILTERED), name, (address, self.port))

    def changes(self, tor: RunningTor, more: str = "") -> list[Change]:
        """torknock's part of torrc, and the line that includes it."""
        host = Host(self.place, tor.user, TORKNOCK, systemd=False, apparmor=False)
        options = HEAD + bridge_options(tor.facts(), self.settings(), "", host) + more
        return [
            File(str(self.snippet), options, 0o640, self.group, Reader.TOR),
            Block(str(self.torrc), f"%include {self.snippet}\n", Reader.TOR),
        ]

    @contextmanager
    def taken_up(self, tor: RunningTor, changes: list[Change]) -> Iterator[None]:
        """Within this, *tor* has *changes*."""
        with self.place.record.locked(), applying(changes, tor, self.place.record, Side.BRIDGE):
            yield


class BridgeTests(ApplyCase):
    """A bridge."""

    def test_tor_takes_up_the_changes_and_an_undo_takes_them_back(self) -> None:
        """The transport runs, the line is the bridge's; afterwards tor and its torrc are as before."""
        self.tor.start()
        before = self.files()
        with tor_at(self.tor.control, None) as tor:
            record = self.place.record
            with record.locked(), applying(self.changes(tor), tor, record, Side.BRIDGE):
                line = first_line(tor, self.settings(), time.time())
            self.assertTrue(transport_runs(tor, Side.BRIDGE))
            parsed = parse_bridge_line(line.text)
            self.assertEqual(
                (str(parsed.address), parsed.port, parsed.fingerprint), ("192.0.2.7", self.port, tor.fingerprint)
            )
            self.assertEqual((line.name, line.made), ("first", True))
            self.assertEqual(first_line(tor, self.settings(), time.time()).text, line.text)
            self.assertFalse(first_line(tor, self.settings(), time.time()).made)
        with self.place.record.locked():
            told = list(undo(self.place, self.tor.control, None))
        self.assertEqual(self.files(), before)
        self.assertIn("the keyring with the issued lines is kept", told[-1])
        with tor_at(self.tor.control, None) as tor:
            self.assertIsNone(tor.facts().of_torknock("ServerTransportPlugin"))
        self.assertTrue(wait_until(lambda: transport_of(self.tor.pid, "server") is None, 30))

    def test_a_line_that_has_ended_is_followed_by_another(self) -> None:
        """Of a name with a number; the ended line stays ended."""
        self.tor.start()
        with tor_at(self.tor.control, None) as tor:
            with self.place.record.locked(), applying(self.changes(tor), tor, self.place.record, Side.BRIDGE):
                self.assertTrue(first_line(tor, self.settings(), time.time()).made)
            with Keyring.open(keyring_within(self.tor.data), create=False) as keyring:
                keyring.revoke("first", time.time())
            second = first_line(tor, self.settings(), time.time())
        self.assertEqual((second.name, second.made), ("first-2", True))

    def test_what_fails_after_the_changes_takes_them_back(self) -> None:
        """tor has its former configuration again, and no transport."""
        self.tor.start()
        before = self.files()
        with tor_at(self.tor.control, None) as tor:
            with self.assertRaises(ZeroDivisionError), self.taken_up(tor, self.changes(tor)):
                raise ZeroDivisionError
            self.assertEqual(self.files(), before)
            self.assertTrue(wait_until(lambda: tor.facts().of_torknock("ServerTransportPlugin") is None, 30))

    def test_a_configuration_that_tor_refuses_is_taken_back(self) -> None:
        """The running tor never reads it: it would end."""
        self.tor.start()
        before = self.files()
        with tor_at(self.tor.control, None) as tor:
            refused = self.assertRaisesRegex(CannotSetUp, "tor would not take the configuration: .*Nonsense")
            with refused, self.taken_up(tor, self.changes(tor, "Nonsense 1\n")):
                self.fail("it must not be taken up")
            self.assertEqual(self.files(), before)
            self.assertIsNone(tor.facts().of_torknock("ServerTransportPlugin"))

    def test_a_transport_that_does_not_start_is_reported_with_its_reason(self) -> None:
        """In the transport's own words, as tor logs them; the changes are taken back."""
        self.tor.start()
        before = self.files()
        with tor_at(self.tor.control, None) as tor:
            [snippet, block] = self.changes(tor)
            assert isinstance(snippet, File)
            snippet.text = snippet.text.replace("posture=filtered", "posture=open")
            refused = self.assertRaisesRegex(CannotSetUp, "tor has not started the transport. It said: .*posture")
            with refused, self.taken_up(tor, [snippet, block]):
                self.fail("no transport may have started")
        self.assertEqual(self.files(), before)


class UndoTests(ApplyCase):
    """What an undo meets."""

    def set_up(self) -> None:
        """Make the changes without telling tor."""
        self.tor.start()
        record = self.place.record
        with tor_at(self.tor.control, None) as tor, record.locked(), record.making(self.changes(tor)):
            pass

    def test_a_tor_that_has_ended_is_said_to_have_its_former_configuration(self) -> None:
        """It would read the new one at its next start."""
        self.set_up()
        self.tor.stop()
        with self.place.record.locked():
            told = list(undo(self.place, self.tor.control, None))
        self.assertRegex(told[0], "no tor answers at .*; if it runs, it still has the former configuration")
        self.assertFalse(self.snippet.exists())

    def test_a_directory_that_torrc_includes_by_now_stays(self) -> None:
        """Without it tor would refuse its whole configuration."""
        self.set_up()
        with self.torrc.open("a") as file:
            file.write(f"%include {self.snippet.parent}\n")
        with self.place.record.locked():
            told = list(undo(self.place, self.tor.control, None))
        self.assertIn(f"{self.snippet.parent} stays, for {self.torrc} includes it", told)
        self.assertEqual(list(self.snippet.parent.iterdir()), [])

    def test_a_torrc_that_was_broken_since_is_not_read(self) -> None:
        """A running tor would end over it."""
        self.set_up()
        with self.torrc.open("a") as file:
            file.write("Nonsense 1\n")
        with self.place.record.locked():
            told = list(undo(self.place, self.tor.control, None))
        self.assertRegex(told[0], "tor would not take the configuration: .*; so tor was not reloaded")

    def test_nothing_is_told_where_nothing_was_set_up(self) -> None:
        """And tor is not asked."""
        self.record_path.parent.mkdir(mode=0o700)
        self.assertEqual(list(undo(self.place, self.tor.control, None)), [])


class QuestionTests(ApplyCase):
    """What is asked of the command tor and of the keyring."""

    def test_what_torrc_amounts_to(self) -> None:
        """Options that differ from tor's defaults, and from those of its distribution."""
        defaults = Path(self.mktemp())
        defaults.write_text("SocksPort 0\nContactInfo nobody\n")
        listed = configured(self.torrc, defaults)
        self.assertIn(("Address", "127.0.0.1"), listed)
        self.assertNotIn("ContactInfo", dict(listed))

    def test_a_torrc_is_refused_with_the_line_that_is_wrong(self) -> None:
        """Without a command tor nothing can be said."""
        self.torrc.write_text("ORPort nowhere\n")
        self.assertRaises(CannotSetUp, verify, self.torrc, None)
        self.patch(apply, "PROGRAMS", "/nonexistent")
        self.assertIsNone(verify(self.torrc, None))  # type: ignore[func-returns-value]

    def test_a_transport_that_does_not_run(self) -> None:
        """It is waited for, and not seen."""
        self.patch(apply, "_STARTS_WITHIN", 0.1)
        self.tor.start()
        with tor_at(self.tor.control, None) as tor:
            self.assertFalse(transport_runs(tor, Side.BRIDGE))

    def test_a_tor_that_does_not_read_its_torrc(self) -> None:
        """It is to be restarted."""
        self.tor.start()
        self.patch(apply, "_REGISTERED_WITHIN", 0.0)
        self.patch(RunningTor, "reload", lambda _tor: None)
        with tor_at(self.tor.control, None) as tor:
            self.assertRaisesRegex(
                CannotSetUp, "does not read its configuration again; restart it", start_transport, tor, Side.CLIENT
            )

    def test_knock_lines_that_a_posture_makes_useless(self) -> None:
        """Live ones alone, and only where judging them would show."""
        directory = keyring_within(self.tor.data)
        self.tor.start()
        with tor_at(self.tor.control, None) as tor:
            facts = tor.facts()
            self.assertEqual(ignored_lines(facts, Posture.CLOSED, time.time()), [])
            with Keyring.open(directory, create=True) as keyring:
                keyring.set_setting(POSTURE, "filtered")
                for name in ("carol", "dave"):
                    keyring.add(name, scheme=Scheme.KNOCK, secret=b"secret", expires=None, now=1)
                keyring.add("alice", expires=None, now=1)
                keyring.revoke("dave", now=2)
            self.assertEqual(ignored_lines(facts, Posture.CLOSED, time.time()), ["carol"])
            self.assertEqual(ignored_lines(facts, Posture.FILTERED, time.time()), [])
