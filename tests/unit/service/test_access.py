"""Tests of `torknock.service.access`: what root lets be guarded, and which files say so."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.door import Door, Posture
from torknock.service.access import (
    DOORS_A_USER,
    DOORS_AT_MOST,
    EVERYWHERE,
    AccessDenied,
    AccessList,
    Entry,
    parse,
    read,
    silence,
)
from torknock.service.peers import Peer
from torknock.service.posture_table import load_posture

LISTED = Entry(EVERYWHERE, 443, Posture.CLOSED, "root")
USERS = st.from_regex(r"[a-z_][a-z0-9_-]{0,30}", fullmatch=True)
ENTRIES = st.builds(Entry, st.just(EVERYWHERE), st.integers(1, 65535), st.sampled_from(Posture), USERS)


class ParseTests(SynchronousTestCase):
    """The list as text."""

    @given(st.lists(ENTRIES, max_size=DOORS_A_USER, unique_by=lambda entry: entry.port))
    def test_what_is_written_is_read(self, entries: list[Entry]) -> None:
        """Every list comes back."""
        self.assertEqual(parse("\n".join(map(str, entries))), tuple(entries))

    @given(st.text())
    def test_any_text_is_a_list_or_refused_in_a_line(self, text: str) -> None:
        """Nothing else comes out of it."""
        try:
            parse(text)
        except AccessDenied as error:
            self.assertTrue(str(error).strip())

    def test_a_user_of_another_domain(self) -> None:
        """What must be escaped in TOML is, as in the names that a directory service has for users."""
        for user in ("DOMAIN\\alice", 'a"b', "\u00e4"):
            entry = replace(LISTED, user=user)
            self.assertEqual(parse(str(entry)), (entry,))

    def test_every_address_has_one_name(self) -> None:
        """`::` and `0.0.0.0` are the same."""
        self.assertEqual(parse(str(LISTED).replace(EVERYWHERE, "::")), (LISTED,))

    def test_what_is_refused(self) -> None:
        """Each with what is wrong: a list that is not understood lets nothing be guarded."""
        text = str(LISTED)
        for wrong, told in (
            ("[[door", "no TOML"),
            ("door = 3\n", "other than"),
            ("[gate]\n" + text, "other than"),
            (text + "mode = 1\n", "must have address, port, posture, user"),
            (text.replace("443", '"443"'), "port must be a number"),
            (text.replace("443", "true"), "port must be a number"),
            (text.replace("443", "0"), "from 1 to 65535"),
            (text.replace("443", "65536"), "from 1 to 65535"),
            (text.replace("closed", "open"), "closed, filtered or decoy"),
            (text.replace(EVERYWHERE, "fe80::1%lo"), "an IP address"),
            (text.replace(EVERYWHERE, "example.org"), "an IP address"),
            (text.replace('"root"', "0"), "user must be a text"),
            (text.replace("root", r"ro\not"), "the name of a user"),
            (text.replace("443", "9" * 5000), "no TOML"),
            ("door = " + "[" * 30_000, "no TOML"),
            (text + text, "port 443 twice"),
            (text + text.replace(EVERYWHERE, "192.0.2.7"), "port 443 twice"),
        ):
            with self.subTest(wrong=wrong):
                with self.assertRaises(AccessDenied) as caught:
                    parse(wrong)
                self.assertIn(told, str(caught.exception))
                self.assertNotIn("\n", str(caught.exception))

    def test_doors_are_capped(self) -> None:
        """In all, and for each user."""
        for most, users in ((DOORS_AT_MOST, range(DOORS_AT_MOST + 1)), (DOORS_A_USER, [0] * (DOORS_A_USER + 1))):
            doors = [Entry("::1", port, Posture.CLOSED, f"u{user}") for port, user in enumerate(users, 1)]
            parse("\n".join(map(str, doors[:-1])))
            with self.assertRaisesRegex(AccessDenied, f"may have {most}"):
                parse("\n".join(map(str, doors)))

    def test_the_silence_of_what_is_filtered(self) -> None:
        """And of nothing else."""
        filtered = Entry("192.0.2.7", 444, Posture.FILTERED, "root")
        self.assertEqual(silence([LISTED, filtered]), load_posture(filtered.door))


class FileTests(SynchronousTestCase):
    """The list as a file."""

    trusted: tuple[int, ...] = (0, os.getuid())
    """Who stands for root: the files are of the user who runs the tests."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "gate.toml"
        self.path.write_text(str(LISTED))
        self.path.chmod(0o644)

    def give_away(self, path: Path) -> None:
        """Have *path* be of a user who does not stand for root."""
        if os.geteuid() == 0:
            os.chown(path, 64_011, 0)
        self.trusted = (0,)

    def refused(self, told: str) -> None:
        with self.assertRaises(AccessDenied) as caught:
            read(self.path, self.trusted)
        self.assertRegex(str(caught.exception), told)
        self.assertIn(str(self.path), str(caught.exception))

    def test_root_alone_writes_it(self) -> None:
        """What another user owns or may write is no word of root's."""
        self.assertEqual(read(self.path, self.trusted), (LISTED,))
        for mode in (0o664, 0o646):
            self.path.chmod(mode)
            self.refused("can be written by others")
        self.path.chmod(0o644)
        self.give_away(self.path)
        self.refused("can be written by others")

    def test_root_alone_replaces_it(self) -> None:
        """A directory that another user owns or may write is named, with what to do, before the list is looked at."""
        told = f"^{self.directory} can be written by others than root.*; as root: chown -h root {self.directory}; chmod"
        for mode in (0o770, 0o707):
            self.directory.chmod(mode)
            self.refused(told)
        self.directory.chmod(0o755)
        self.give_away(self.directory)
        told = "^/.* can be written by others than root, who could replace .*; as root: chown -h root /.*; chmod go-w /"
        self.refused(told)
        self.path.unlink()
        self.refused(told)

    def test_an_installation_without_one_is_told_what_to_run(self) -> None:
        """As one that an earlier version has set up."""
        self.path.unlink()
        self.refused("there is no .*as root: torknock setup bridge$")

    def test_it_is_a_regular_file(self) -> None:
        """Nothing that blocks or never ends is read."""
        self.path.unlink()
        os.mkfifo(self.path)
        self.refused("no regular file")
        self.path.unlink()
        self.path.symlink_to("/dev/zero")
        self.refused("cannot be read")

    def test_it_is_bounded_text(self) -> None:
        """Too much, or what is no text, is refused."""
        self.path.write_text("#" * 70_000)
        self.refused("more than 65536 octets")
        self.path.write_bytes(b"\xff")
        self.refused("no UTF-8")

    def test_who_may_ask_and_for_what(self) -> None:
        """A listed user, for exactly the listed door; a change holds at once."""
        access = AccessList(self.path, self.trusted)
        self.assertTrue(access.may_ask(Peer(0, frozenset())))
        self.assertFalse(access.may_ask(Peer(65534, frozenset())))
        access.check(Door("::", 443), 0)
        for address, port, posture, uid in (
            (EVERYWHERE, 80, Posture.CLOSED, 0),
            (EVERYWHERE, 443, Posture.DECOY, 0),
            ("192.0.2.7", 443, Posture.CLOSED, 0),
            (EVERYWHERE, 443, Posture.CLOSED, 65534),
        ):
            with self.assertRaisesRegex(AccessDenied, "does not list it; as root: torknock setup bridge"):
                access.check(Door(address, port, posture), uid)
        self.path.write_text(str(LISTED).replace("root", "nobody"))
        access.check(Door(EVERYWHERE, 443), 65534)
        self.path.write_text("nonsense")
        self.assertTrue(access.may_ask(Peer(65534, frozenset())))
