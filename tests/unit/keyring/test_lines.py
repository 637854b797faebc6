"""Tests of torknock.keyring."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from twisted.trial.unittest import SynchronousTestCase

import torknock.keyring.migration
from torknock.keyring.file import KeyringLocked, KeyringMissing, KeyringUnreadable
from torknock.keyring.issued import Issued
from torknock.keyring.line_errors import BadName, BadNote, LineErased, LineExists, LineRevoked, LineUnknown
from torknock.keyring.lines import Keyring
from torknock.keyring.site_settings import site_path
from torknock.protocol.bridge_line import Channel, Line, LineError, Scheme
from torknock.protocol.token import epoch_at, tokens

NOW = 1_795_446_300.5
ADDED = """
import sys
from pathlib import Path
from torknock.keyring.line_errors import LineExists
from torknock.keyring.lines import Keyring
prefix, count = sys.argv[2], int(sys.argv[3])
with Keyring.open(Path(sys.argv[1]), create=True) as keyring:
    print(keyring.pin.hex(), flush=True)
    for number in range(count):
        try:
            keyring.add(f"{prefix}{number}", expires=None, now=1)
        except LineExists:
            continue
        print(f"add {prefix}{number}", flush=True)
        if number % 2:
            keyring.revoke(f"{prefix}{number}", now=2)
            print(f"revoke {prefix}{number}", flush=True)
"""
"""A process that issues many lines and revokes each second one; it says what is done once it is done."""

COUNTED = """
import sys
from pathlib import Path
from torknock.keyring.lines import Keyring
with Keyring.open(Path(sys.argv[1]), create=False) as keyring:
    for _ in range(50):
        keyring.count({"alice": 2, "bob": 1}, now=86_400)
"""
"""A process that counts many connections."""

KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from torknock.keyring.lines import Keyring

class Connection(sqlite3.Connection):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.left = None
        self.set_trace_callback(self.trace)

    def trace(self, statement):
        if statement == "BEGIN IMMEDIATE":
            self.left = int(sys.argv[2])
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left = None if self.left is None or statement == "COMMIT" else self.left - 1

connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)
Keyring.open(Path(sys.argv[1]), create=False)
"""
"""A process that opens a keyring, and is killed before so many statements of its first transaction were carried out."""

VERSION_1 = """
    CREATE TABLE bridge (private_key BLOB NOT NULL) STRICT;
    CREATE TABLE line (
        name TEXT PRIMARY KEY, secret BLOB NOT NULL, n INTEGER NOT NULL, sni TEXT, scheme TEXT NOT NULL,
        channel TEXT NOT NULL, integrity INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER
    ) STRICT;
    CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    PRAGMA user_version = 1;
"""


class KeyringCase(SynchronousTestCase):
    """A directory to keep keyrings in."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.above = Path(temporary.name)
        self.directory = self.above / "pt_state" / "torknock"

    def open(self, create: bool = True) -> Keyring:
        """The keyring, closed when the test ends."""
        keyring = Keyring.open(self.directory, create)
        self.addCleanup(keyring.close)
        return keyring

    def process(self, prefix: str, count: int = 50) -> subprocess.Popen[str]:
        """Start what `ADDED` says."""
        return self.start(ADDED, prefix, str(count))

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start *program*, in Python, with the keyring's directory before its *arguments*."""
        return subprocess.Popen(
            [sys.executable, "-c", program, self.directory, *arguments],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip

    def found(self, secrets: list[bytes]) -> set[bytes]:
        """Those of *secrets* that a part of which is in a file of the directory."""
        octets = b"".join(path.read_bytes() for path in self.directory.iterdir() if path.is_file())
        parts = {secret: [secret[at : at + 8] for at in range(0, len(secret[:64]) - 7, 8)] for secret in secrets}
        return {secret for secret, pieces in parts.items() if any(piece in octets for piece in pieces)}

    def mode(self, path: Path) -> int:
        """The permissions of *path*."""
        return path.stat().st_mode & 0o777

    def refused(self, create: bool = True) -> str:
        """Why the keyring cannot be opened, in one line."""
        said = str(self.assertRaises(KeyringUnreadable, Keyring.open, self.directory, create))
        self.assertTrue(said.isprintable())
        return said


class KeyringTests(KeyringCase):
    """What one process sees of a keyring."""

    def test_the_key_is_made_once(self) -> None:
        """It is a P-256 key, and the pin is the hash of its public half."""
        first, second = self.open(), self.open(create=False)
        self.assertEqual((first.private_key, first.pin), (second.private_key, second.pin))
        key = load_der_private_key(first.private_key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.assertEqual(key.curve.name, "secp256r1")
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(first.pin, hashlib.sha256(public).digest())

    def test_a_line_is_kept(self) -> None:
        """Another process reads what was issued."""
        keyring = self.open()
        plain = keyring.add("alice", expires=None, now=NOW)
        special = keyring.add("bob", expires=int(NOW) + 60, now=NOW, n=20, sni="a.example", channel=Channel.RAW)
        self.assertEqual(special, Issued("bob", special.line, int(NOW), int(NOW) + 60, None))
        self.assertEqual((special.line.n, special.line.sni, special.line.channel), (20, "a.example", "raw"))
        self.assertEqual({plain.line.pin, special.line.pin}, {keyring.pin})
        self.assertNotEqual(plain.line.secret, special.line.secret)
        self.assertEqual(len(plain.line.secret), 72)
        again = self.open(create=False)
        self.assertEqual(again.lines(), [plain, special])
        self.assertEqual(again.get("bob"), special)

    def test_a_line_lives_until_it_expires_or_is_revoked(self) -> None:
        """Lines that ended remain known."""
        keyring = self.open()
        for name, expires in (("alice", None), ("bob", int(NOW) + 60), ("carol", None)):
            keyring.add(name, expires=expires, now=NOW)
        keyring.revoke("carol", now=NOW + 1)
        self.assertEqual([issued.name for issued in keyring.live(NOW + 2)], ["alice", "bob"])
        self.assertEqual([issued.name for issued in keyring.live(int(NOW) + 60)], ["alice"])
        for now in (NOW, int(NOW) + 59, int(NOW) + 60):
            self.assertEqual(keyring.live(now), [issued for issued in keyring.lines() if issued.is_live(now)])
        self.assertEqual(len(keyring.lines()), 3)

    def test_a_line_is_revoked_once(self) -> None:
        """The first time is the one that is kept."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        keyring.revoke("alice", now=NOW + 1)
        keyring.revoke("alice", now=NOW + 99)
        self.assertEqual(keyring.get("alice").revoked, int(NOW + 1))

    def test_a_name_is_used_once(self) -> None:
        """Even if its line was revoked."""
        keyring = self.open()
        issued = keyring.add("alice", expires=None, now=NOW)
        self.assertRaises(LineExists, keyring.add, "alice", expires=None, now=NOW)
        keyring.revoke("alice", now=NOW)
        self.assertRaises(LineExists, keyring.add, "alice", expires=None, now=NOW)
        self.assertEqual(keyring.get("alice").line, replace(issued.line, secret=b""))

    def test_a_name_is_a_word(self) -> None:
        """So that no name is an option, breaks a table or needs quotes."""
        keyring = self.open()
        for name in ("", "-a", "a b", "a\n", "é", "a/b", "a" * 65):
            self.assertRaises(BadName, keyring.add, name, expires=None, now=NOW)
            self.assertRaises(BadName, keyring.get, name)
            self.assertRaises(BadName, keyring.revoke, name, now=NOW)
        for name in ("a", "A.b_c-9", "_", "a" * 64):
            self.assertEqual(keyring.add(name, expires=None, now=NOW).name, name)

    def test_a_line_that_no_client_would_take_is_not_issued(self) -> None:
        """The keyring is as strict as the reader of a bridge line."""
        keyring = self.open()
        self.assertRaises(LineError, keyring.add, "a", expires=None, now=NOW, n=0)
        self.assertRaises(LineError, keyring.add, "a", expires=None, now=NOW, n=1025)
        self.assertRaises(LineError, keyring.add, "a", expires=None, now=NOW, sni="A.example")
        self.assertRaises(LineError, keyring.add, "a", expires=None, now=NOW, channel="quic")
        self.assertEqual(keyring.lines(), [])

    def test_an_unknown_line_is_said(self) -> None:
        """Nothing happens to the others."""
        keyring = self.open()
        before = keyring.changes()
        self.assertRaises(LineUnknown, keyring.get, "alice")
        self.assertRaises(LineUnknown, keyring.revoke, "alice", now=NOW)
        self.assertEqual(keyring.changes(), before)

    def test_changes_are_noticed(self) -> None:
        """Those of this process and of others."""
        keyring, other = self.open(), self.open()
        seen = [keyring.changes()]
        for change in (
            lambda: keyring.add("alice", expires=None, now=NOW),
            lambda: other.add("bob", expires=None, now=NOW),
            lambda: keyring.revoke("bob", now=NOW),
            lambda: other.revoke("alice", now=NOW),
            lambda: other.revoke("alice", now=NOW, cut=True),
            lambda: keyring.add("carol", expires=int(NOW) + 10, now=NOW),
            lambda: other.set_expiry("carol", None),
        ):
            self.assertEqual(keyring.changes(), seen[-1])
            change()
            self.assertEqual(other.changes(), keyring.changes())
            seen.append(keyring.changes())
        self.assertEqual(len(set(seen)), 8)

    def test_counting_is_no_change(self) -> None:
        """Bridges count every minute, and would read every line anew, each because of the other."""
        keyring, other = self.open(), self.open()
        keyring.add("alice", expires=None, now=NOW)
        before = keyring.changes()
        keyring.count({"alice": 3}, now=NOW)
        other.count({"alice": 2, "nobody": 1}, now=NOW - 200_000)
        self.assertEqual((keyring.changes(), other.changes()), (before, before))
        alice = keyring.get("alice")
        self.assertEqual((alice.connections, alice.last_used), (5, int(NOW) // 86_400))

    def test_the_last_use_is_a_day(self) -> None:
        """In UTC; the time of day is nowhere in the file."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=1)
        self.assertEqual((keyring.get("alice").connections, keyring.get("alice").last_used), (0, None))
        for now, day in ((20_000 * 86_400, 20_000), (20_001 * 86_400 - 0.5, 20_000), (20_001 * 86_400, 20_001)):
            keyring.count({"alice": 1}, now=now)
            self.assertEqual(keyring.get("alice").last_used, day)

    def test_an_expired_line_may_live_again(self) -> None:
        """What is asked is how long it opens, not what it did before."""
        keyring = self.open()
        keyring.add("alice", expires=int(NOW) - 1, now=NOW)
        keyring.set_expiry("alice", int(NOW) + 60)
        self.assertEqual(keyring.live(NOW), [keyring.get("alice")])
        keyring.set_expiry("alice", None)
        self.assertEqual(keyring.live(NOW * 2), [keyring.get("alice")])
        keyring.set_expiry("alice", int(NOW))
        self.assertEqual(keyring.live(NOW), [])
        self.assertRaises(LineUnknown, keyring.set_expiry, "bob", None)
        self.assertRaises(BadName, keyring.set_expiry, "-", None)

    def test_a_secret_is_erased_when_its_line_ends(self) -> None:
        """No file of the directory has its octets any more; what the operator wants to know of the line stays."""
        keyring = self.open()
        lines = [keyring.add(f"line{number}", expires=int(NOW) + number, now=NOW) for number in range(40)]
        secret = b"a secret of 33 octets, as it goes"
        knock = keyring.add("knock", scheme=Scheme.KNOCK, expires=None, now=NOW, secret=secret)
        secrets = [issued.line.secret for issued in (*lines, knock)]
        self.assertEqual(self.found(secrets), set(secrets))
        for issued in lines[30:]:
            keyring.set_note(issued.name, "a note that makes the row longer, and moves it " * 3)
        for issued in (*lines[20:], knock):
            keyring.revoke(issued.name, NOW)
        self.assertEqual(self.found(secrets), set(secrets[:20]))
        self.assertEqual(keyring.erase(int(NOW) + 9), 10)
        self.assertEqual(keyring.erase(int(NOW) + 9), 0)
        self.assertEqual(self.found(secrets), set(secrets[10:20]))
        self.assertEqual(keyring.erase(int(NOW) + 15), 6)
        self.assertEqual(self.found(secrets), set(secrets[16:20]))
        for issued in keyring.lines():
            self.assertEqual(issued.erased, issued.line.secret == b"")
        ended = keyring.get("line5")
        self.assertEqual((ended.expires, ended.created, ended.line.n), (int(NOW) + 5, int(NOW), 8))
        self.assertFalse(ended.is_live(NOW))
        self.assertEqual(len(keyring.live(NOW)), 4)
        self.assertRaises(LineErased, keyring.set_expiry, "line5", None)
        self.assertRaises(LineRevoked, keyring.set_expiry, "line35", None)
        self.assertEqual(keyring.get("knock").line.scheme, "knock")

    def test_what_is_over_cannot_be_derived(self) -> None:
        """Neither from what is read of the keyring, nor from the octets of any file of its directory."""
        keyring = self.open()
        lines = [keyring.add(f"line{number}", expires=None, now=NOW) for number in range(25)]
        first = epoch_at(NOW) - 1
        self.assertEqual({issued.line.first_epoch for issued in lines}, {first})
        later = first + 300
        self.assertEqual([keyring.advance(later, 10) for _ in range(4)], [10, 10, 5, 0])
        for before, after in zip(lines, keyring.lines(), strict=True):
            self.assertEqual(after.line, before.line.forward(later))
            self.assertEqual(after.line.tokens(later + 1), before.line.tokens(later + 1))
            self.assertEqual(after.line.tokens(later - 1), ())
        self.assertEqual(self.found([issued.line.secret for issued in lines]), set())
        self.assertEqual(keyring.advance(later - 1, 10), 0)
        self.assertEqual(keyring.changes(), 25)

    def test_lines_of_version_1_stay_as_they_are(self) -> None:
        """And those of scheme `knock`, and those that were erased."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW, secret=b"s" * 32)
        keyring.add("bob", expires=None, now=NOW, scheme=Scheme.KNOCK, secret=b"s" * 64)
        keyring.add("carol", expires=None, now=NOW)
        keyring.revoke("carol", NOW)
        before = keyring.lines()
        self.assertEqual(keyring.advance(epoch_at(NOW) + 300, 10), 0)
        self.assertEqual(keyring.lines(), before)

    def test_a_note_and_an_expiry_are_changed(self) -> None:
        """Of a line that lives; one that was revoked stays so."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW, note="for Alice, by hand")
        self.assertEqual(keyring.get("alice").note, "for Alice, by hand")
        keyring.set_note("alice", "")
        keyring.set_expiry("alice", int(NOW) + 10)
        self.assertEqual((keyring.get("alice").note, keyring.get("alice").expires), ("", int(NOW) + 10))
        keyring.set_note("alice", "é" * 200)
        self.assertEqual(keyring.get("alice").note, "é" * 200)
        keyring.set_note("alice", "")
        for note in ("x" * 201, "two\nlines", "\x1b[31m", "\u202eright to left", "\udcff"):
            self.assertRaises(BadNote, keyring.set_note, "alice", note)
            self.assertRaises(BadNote, keyring.add, "bob", expires=None, now=NOW, note=note)
        self.assertRaises(LineUnknown, keyring.set_note, "bob", "x")
        keyring.revoke("alice", now=NOW)
        self.assertRaises(LineRevoked, keyring.set_expiry, "alice", None)
        keyring.set_note("alice", "lost her telephone")
        self.assertEqual((keyring.get("alice").expires, keyring.get("alice").revoked), (int(NOW) + 10, int(NOW)))

    def test_a_revocation_may_cut(self) -> None:
        """Also one that comes later; and it is not taken back."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        self.assertFalse(keyring.get("alice").cut)
        for cut, then in ((False, False), (True, True), (False, True)):
            keyring.revoke("alice", now=NOW, cut=cut)
            self.assertEqual(keyring.get("alice").cut, then)

    def test_settings_are_remembered(self) -> None:
        """The last value counts."""
        keyring = self.open()
        self.assertEqual(keyring.setting("address"), None)
        keyring.set_setting("address", "192.0.2.7:443")
        keyring.set_setting("address", "192.0.2.8:443")
        self.assertEqual(self.open().setting("address"), "192.0.2.8:443")

    def test_a_web_line_has_the_pin_and_the_path_of_the_site(self) -> None:
        """Each line keeps the pin that it was issued with, or none; all have one path, which is drawn once."""
        with self.open() as keyring:
            pinned, trusting = (
                keyring.add(name, expires=None, now=NOW, sni="a.example", channel=Channel.WEB, site_pin=pin)
                for name, pin in (("alice", b"p" * 32), ("bob", None))
            )
            self.assertEqual((pinned.line.pin, trusting.line.pin), (b"p" * 32, None))
            self.assertEqual(pinned.line.path, trusting.line.path)
            self.assertEqual(pinned.line.path, site_path(keyring))
            self.assertRaises(LineError, keyring.add, "carol", expires=None, now=NOW, channel=Channel.WEB)
        with self.open() as keyring:
            self.assertEqual(keyring.lines(), [pinned, trusting])
            self.assertEqual(keyring.add("dave", expires=None, now=NOW).line.pin, keyring.pin)

    def test_the_addresses_of_a_line_are_remembered(self) -> None:
        """Each once, for that line alone; and a bridge that runs hears of them."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        keyring.add("bob", expires=None, now=NOW)
        before = keyring.changes()
        for address in ("192.0.2.7", "2001:db8::7", "192.0.2.7"):
            keyring.make_known_at("alice", address)
        self.assertEqual(self.open().get("alice").addresses, ("192.0.2.7", "2001:db8::7"))
        self.assertEqual(keyring.get("bob").addresses, ())
        self.assertEqual(keyring.changes(), before + 2)
        self.assertRaises(LineUnknown, keyring.make_known_at, "carol", "192.0.2.7")

    def test_a_line_that_is_withdrawn_leaves_no_address(self) -> None:
        """Its name is free again, for a line that was printed with none."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        keyring.make_known_at("alice", "192.0.2.7")
        keyring.withdraw("alice")
        keyring.add("alice", expires=None, now=NOW)
        self.assertEqual(keyring.get("alice").addresses, ())

    def test_a_damaged_address_is_a_damaged_line(self) -> None:
        """It is said when the keyring is read, not when a client arrives."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        keyring.make_known_at("alice", "192.0.2")
        self.assertRaises(KeyringUnreadable, keyring.get, "alice")


class FileTests(KeyringCase):
    """The files of a keyring, and what may be wrong with them."""

    def test_a_pipe_beside_it_is_not_waited_for(self) -> None:
        """SQLite would open it, and wait for a writer."""
        self.open().close()
        for name in ("keyring.sqlite-journal", "keyring.sqlite-wal"):
            os.mkfifo(self.directory / name)
            self.assertIn(name, self.refused())
            (self.directory / name).unlink()

    def test_nobody_else_can_read_it(self) -> None:
        """Whatever the umask, for every file SQLite makes."""
        self.addCleanup(os.umask, os.umask(0))
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        self.assertEqual(self.mode(self.directory), 0o700)
        self.assertEqual(self.mode(self.directory.parent), 0o700)
        files = list(self.directory.iterdir())
        self.assertEqual({self.mode(file) for file in files}, {0o600})

    def test_a_keyring_that_is_not_there_is_not_made_unasked(self) -> None:
        """Neither is its directory."""
        self.assertRaises(KeyringMissing, Keyring.open, self.directory, create=False)
        self.assertEqual(list(self.above.iterdir()), [])

    def test_permissions_are_mended_where_they_are_ours(self) -> None:
        """A keyring that was copied carelessly is private again."""
        self.open().close()
        (self.directory / "keyring.sqlite").chmod(0o644)
        self.open(create=False)
        self.assertEqual(self.mode(self.directory / "keyring.sqlite"), 0o600)

    def test_a_directory_that_others_can_read_or_write_is_refused(self) -> None:
        """Whether the keyring is there or is to be made there; one line says which and what to do."""
        self.directory.mkdir(mode=0o700, parents=True)
        for there in (False, True):
            for mode in (0o720, 0o740, 0o702, 0o704):
                self.directory.chmod(mode)
                self.assertEqual(
                    self.refused(create=True),
                    f"keyring {self.directory}: other users can read or write this directory; "
                    f"chmod 700 {self.directory}",
                )
                self.assertEqual((self.directory / "keyring.sqlite").exists(), there)
            self.directory.chmod(0o711)
            self.open().close()

    def test_damage_is_said(self) -> None:
        """Nothing is made anew in the place of something that cannot be read."""
        self.open().close()
        path = self.directory / "keyring.sqlite"
        whole = path.read_bytes()
        for damaged in (b"", b"not a database" * 99, whole[:50], whole[:5000], bytes(100) + whole[100:]):
            path.write_bytes(damaged)
            self.refused()
            self.refused(create=False)
            self.assertEqual(path.read_bytes(), damaged)

    def test_any_damaged_octet_is_an_error_or_harmless(self) -> None:
        """Wherever the disk fails, there is one line of text."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        keyring.close()
        path = self.directory / "keyring.sqlite"
        whole = path.read_bytes()
        for place in itertools.chain(range(200), range(200, len(whole), 61)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            try:
                with Keyring.open(self.directory, create=True) as damaged:
                    for issued in damaged.live(NOW):
                        tokens(issued.line.secret, issued.line.bridge_name, 7, issued.line.n)
            except KeyringUnreadable as error:
                self.assertTrue(str(error).isprintable())

    def test_a_damaged_value_is_said(self) -> None:
        """Whichever it is: nothing odd reaches the bridge, a table or a terminal."""
        with self.open() as keyring:
            keyring.add("alice", expires=None, now=NOW)
        path = self.directory / "keyring.sqlite"
        whole = path.read_bytes()
        for what in (
            "name = 'a b'", "name = char(27)", "secret = x'00'", "n = 0", "n = 1025", "sni = 'A b'", "scheme = 'none'",
            "channel = 'x'", "integrity = 7", "created = -1", f"expires = {1 << 60}", f"revoked = {1 << 60}",
            f"last_used = {1 << 40}", "note = char(10)",
            "pin = x'00', channel = 'web', sni = 'a.example', path = 'x'", "path = 'x'", "name = CAST(x'ff' AS TEXT)",
        ):  # fmt: skip
            path.write_bytes(whole)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
                database.execute(f"UPDATE line SET {what}")  # noqa: S608  see above
            with Keyring.open(self.directory, create=False) as keyring:
                self.assertTrue(str(self.assertRaises(KeyringUnreadable, keyring.lines)).isprintable())

    def test_a_newer_keyring_is_refused(self) -> None:
        """Who goes back to an older torknock is told."""
        self.open().close()
        database = sqlite3.connect(self.directory / "keyring.sqlite")
        database.execute("PRAGMA user_version = 7")
        database.close()
        self.assertIn("newer torknock", self.refused())

    def test_a_database_of_somebody_else_is_refused(self) -> None:
        """A file of SQLite's is not yet a keyring."""
        self.directory.mkdir(mode=0o700, parents=True)
        database = sqlite3.connect(self.directory / "keyring.sqlite")
        database.execute("CREATE TABLE t (x)")
        database.close()
        self.assertIn("no keyring", self.refused())

    def test_what_is_no_file_is_refused(self) -> None:
        """A link, a folder or a pipe in the keyring's place, and a file in its directory's."""
        self.directory.mkdir(mode=0o700, parents=True)
        path = self.directory / "keyring.sqlite"
        path.mkdir()
        self.refused()
        path.rmdir()
        os.mkfifo(path)
        self.refused()
        path.unlink()
        path.symlink_to(self.above / "elsewhere")
        (self.above / "elsewhere").touch()
        self.refused()
        path.unlink()
        self.directory.rmdir()
        self.directory.touch()
        self.refused()

    def test_a_keyring_that_was_replaced_is_noticed(self) -> None:
        """What is revoked in the new one would not reach a bridge that holds on to the old one."""
        keyring = self.open()
        path = self.directory / "keyring.sqlite"
        path.rename(self.above / "old")
        self.assertRaises(KeyringUnreadable, keyring.changes)
        self.open()
        self.assertIn("another bridge", str(self.assertRaises(KeyringUnreadable, keyring.changes)))

    def test_a_copy_that_was_put_back_is_taken_up(self) -> None:
        """It is opened, and what was changed in it is seen."""
        keyring = self.open()
        keyring.add("alice", expires=None, now=NOW)
        before = keyring.changes()
        path = self.directory / "keyring.sqlite"
        shutil.copy(path, self.above / "backup")
        keyring.add("bob", expires=None, now=NOW)
        path.unlink()
        shutil.copy(self.above / "backup", path)
        self.assertNotEqual(keyring.changes(), before)
        self.assertEqual([issued.name for issued in keyring.lines()], ["alice"])
        after = keyring.changes()
        self.open().revoke("alice", NOW)
        self.assertNotEqual(keyring.changes(), after)

    def test_a_keyring_that_was_closed_says_so(self) -> None:
        """No traceback of SQLite's."""
        keyring = self.open()
        keyring.close()
        keyring.close()
        self.assertRaises(KeyringUnreadable, keyring.lines)
        self.assertRaises(KeyringUnreadable, keyring.add, "alice", expires=None, now=NOW)


class MigrationTests(KeyringCase):
    """A keyring that torknock has written before lines had notes."""

    def setUp(self) -> None:
        super().setUp()
        self.directory.mkdir(mode=0o700, parents=True)
        self.path = self.directory / "keyring.sqlite"
        key = ec.generate_private_key(ec.SECP256R1())
        self.key = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pin = hashlib.sha256(public).digest()
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            database.executescript(VERSION_1)
            database.execute("INSERT INTO bridge VALUES (?)", (self.key,))
            database.execute("INSERT INTO setting VALUES ('address', '192.0.2.7:443')")
            rows = [
                ("alice", bytes(32), 8, None, "token", "tls", 0, 1, None, None),
                ("bob", b"b" * 32, 20, "a.example", "token", "raw", 0, 2, 3, 4),
                ("carol", b"short", 8, None, "knock", "raw", 7, 5, 6, None),
            ]
            database.executemany("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.lines = [
            Issued("alice", Line(bytes(32), pin), 1, None, None, "", None, 0, False),
            Issued("bob", Line(b"b" * 32, pin, 20, "a.example", channel=Channel.RAW), 2, 3, 4, "", None, 0, False),
            Issued("carol", Line(b"short", None, scheme=Scheme.KNOCK, channel=Channel.RAW, integrity=7), 5, 6, None),
        ]

    def version(self) -> int:
        """What the file says its version is."""
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            return int(database.execute("PRAGMA user_version").fetchone()[0])

    def check(self, keyring: Keyring) -> None:
        """All that was in it is in it."""
        self.assertEqual((keyring.private_key, keyring.lines()), (self.key, self.lines))
        self.assertEqual(keyring.setting("address"), "192.0.2.7:443")

    def test_it_is_brought_up_to_date(self) -> None:
        """With its key, lines and settings; then it can do what a new one can."""
        keyring = self.open(create=False)
        self.check(keyring)
        self.check(self.open())
        self.assertEqual(self.version(), 6)
        self.assertEqual(keyring.changes(), 0)
        keyring.set_note("alice", "hers")
        keyring.count({"alice": 1}, now=NOW)
        keyring.revoke("alice", now=NOW, cut=True)
        alice = keyring.get("alice")
        self.assertEqual((alice.note, alice.connections, alice.cut), ("hers", 1, True))
        with Keyring.open(self.above / "new", create=True) as new:
            self.assertEqual(self.columns(self.path), self.columns(self.above / "new" / "keyring.sqlite"))
            self.assertEqual(new.lines(), [])

    def test_the_addresses_of_version_0_1_0(self) -> None:
        """It knew those of all lines together: each of its lines may have any of them, a new line has none."""
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            database.execute("INSERT INTO setting VALUES ('known_at', '192.0.2.7 2001:db8::8')")
        keyring = self.open(create=False)
        keyring.add("dave", expires=None, now=NOW)
        keyring.make_known_at("alice", "192.0.2.9")
        keyring.make_known_at("dave", "192.0.2.9")
        self.assertEqual(keyring.get("alice").addresses, ("192.0.2.7", "2001:db8::8", "192.0.2.9"))
        self.assertEqual(keyring.get("bob").addresses, ("192.0.2.7", "2001:db8::8"))
        self.assertEqual(keyring.get("dave").addresses, ("192.0.2.9",))

    def test_the_addresses_of_each_line(self) -> None:
        """Version 3 had them in a setting for each line; one without had none, whatever others had."""
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            for statement in torknock.keyring.migration._FROM_VERSION_1.strip().splitlines():
                database.execute(statement)
            known = [("known_at", "192.0.2.7"), ("known_at alice", "192.0.2.8 192.0.2.9"), ("known_at bob", "")]
            database.executemany("INSERT INTO setting VALUES (?, ?)", known)
            database.execute("PRAGMA user_version = 3")
        keyring = self.open(create=False)
        self.assertEqual(keyring.get("alice").addresses, ("192.0.2.8", "192.0.2.9"))
        self.assertEqual(keyring.get("bob").addresses, ())
        self.assertEqual(keyring.get("carol").addresses, ("192.0.2.7",))
        self.assertIsNone(keyring.setting("known_at alice"))
        self.assertEqual(self.version(), 6)

    def test_the_lines_of_version_4_are_not_shaped(self) -> None:
        """A line that is issued from now on may be, or may lead to a site."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            for statement in torknock.keyring.migration._FROM_VERSION_1.strip().splitlines():
                database.execute(statement)
            database.execute(torknock.keyring.migration.PRINTED_WITH)
            database.execute("INSERT INTO printed_with VALUES ('alice', '192.0.2.8')")
            database.execute("PRAGMA user_version = 4")
        keyring = self.open(create=False)
        keyring.add("dave", expires=None, now=NOW, shape=True)
        self.assertEqual({each.name for each in keyring.lines() if each.line.shape}, {"dave"})
        self.assertEqual((keyring.get("alice").addresses, self.version()), (("192.0.2.8",), 6))
        keyring.add("erin", expires=None, now=NOW, sni="a.example", channel=Channel.WEB)

    def test_the_lines_of_version_5_have_no_path(self) -> None:
        """They may be shaped, and stay so; a line that is issued from now on may lead to a site."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            for statement in torknock.keyring.migration._FROM_VERSION_1.strip().splitlines():
                database.execute(statement)
            database.execute(torknock.keyring.migration.PRINTED_WITH)
            database.execute(torknock.keyring.migration._FROM_VERSION_4)
            database.execute("UPDATE line SET shape = 1 WHERE name = 'alice'")
            database.execute("PRAGMA user_version = 5")
        keyring = self.open(create=False)
        self.assertEqual({each.name for each in keyring.lines() if each.line.shape}, {"alice"})
        self.assertEqual({each.line.path for each in keyring.lines()}, {""})
        keyring.add("erin", expires=None, now=NOW, sni="a.example", channel=Channel.WEB)
        self.assertEqual(self.version(), 6)

    def test_an_earlier_versions_free_pages_are_emptied(self) -> None:
        """It left what it erased where it was."""
        secrets = [os.urandom(32) for _ in range(200)]
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            database.execute("PRAGMA secure_delete = OFF")
            for number, secret in enumerate(secrets):
                row = (f"x{number}", secret)
                database.execute("INSERT INTO line VALUES (?, ?, 8, NULL, 'token', 'tls', 0, 1, NULL, NULL)", row)
            database.commit()
            database.execute("DELETE FROM line WHERE name LIKE 'x%'")
            database.commit()
        self.assertTrue(self.found(secrets))
        self.open(create=False)
        self.assertEqual(self.found(secrets), set())

    def columns(self, path: Path) -> list[object]:
        """What SQLite says of the columns of lines."""
        with contextlib.closing(sqlite3.connect(path)) as database:
            return database.execute("PRAGMA table_info(line)").fetchall()

    def dump(self) -> list[str]:
        """All that is in the file."""
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            return list(database.iterdump())

    def test_a_failure_leaves_what_was_there(self) -> None:
        """All of it happens or nothing."""
        broken = torknock.keyring.migration._FROM_VERSION_1
        self.patch(torknock.keyring.migration, "_FROM_VERSION_1", f"{broken}SELECT nothing;\n")
        before = self.dump()
        self.assertRaises(KeyringUnreadable, Keyring.open, self.directory, create=False)
        self.assertEqual((self.dump(), self.version()), (before, 1))

    def test_a_kill_leaves_what_was_there(self) -> None:
        """Whenever it comes; the next process begins anew."""
        for statements in itertools.count():
            process = self.start(KILLED, str(statements))
            process.communicate()
            if process.returncode == 0:
                break
            self.assertEqual((process.returncode, self.version()), (-signal.SIGKILL, 1))
        self.assertGreater(statements, 6)
        self.assertEqual(self.version(), 6)
        self.check(self.open(create=False))

    def test_two_processes_at_once(self) -> None:
        """One brings it up to date, the other finds it so."""
        processes = [self.process("a", 10), self.process("b", 10)]
        for process in processes:
            process.communicate()
        self.assertEqual([process.returncode for process in processes], [0, 0])
        keyring = self.open(create=False)
        self.assertEqual([issued for issued in keyring.lines() if issued.name in ("alice", "bob", "carol")], self.lines)
        self.assertEqual(len(keyring.lines()), 23)


class ProcessTests(KeyringCase):
    """Several processes at once, and processes that are killed."""

    def test_two_processes_lose_no_line(self) -> None:
        """Both make the keyring, both issue fifty lines: there is one key, and a hundred lines."""
        processes = [self.process("a"), self.process("b")]
        said = [process.communicate()[0].splitlines() for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0])
        keyring = self.open(create=False)
        self.assertEqual([lines[0] for lines in said], [keyring.pin.hex()] * 2)
        names = {f"{prefix}{number}" for prefix in "ab" for number in range(50)}
        self.assertEqual({issued.name for issued in keyring.lines()}, names)
        self.assertEqual(len({issued.line.secret for issued in keyring.lines()} - {b""}), 50)

    def test_a_name_goes_to_one_process(self) -> None:
        """Both want the same fifty names; each name is issued once."""
        processes = [self.process("a"), self.process("a")]
        said = [line for process in processes for line in process.communicate()[0].splitlines()]
        added = [line for line in said if line.startswith("add ")]
        self.assertEqual(sorted(added), sorted(f"add a{number}" for number in range(50)))
        self.assertEqual(len(self.open(create=False).lines()), 50)

    def test_two_processes_count_together(self) -> None:
        """No connection is lost, while lines come and go."""
        keyring = self.open()
        for name in ("alice", "bob"):
            keyring.add(name, expires=None, now=NOW)
        processes = [self.start(COUNTED), self.start(COUNTED), self.process("c", 10)]
        for process in processes:
            process.communicate()
        self.assertEqual([process.returncode for process in processes], [0, 0, 0])
        self.assertEqual([keyring.get(name).connections for name in ("alice", "bob")], [200, 100])
        self.assertEqual(keyring.changes(), 2 + 10 + 5)

    def test_a_process_that_does_not_let_go_is_said(self) -> None:
        """Whoever waits gives up after a while, and nothing is half done."""
        self.open()
        keyring = Keyring.open(self.directory, create=False, timeout=0.01)
        self.addCleanup(keyring.close)
        holder = sqlite3.connect(self.directory / "keyring.sqlite", isolation_level=None)
        self.addCleanup(holder.close)
        holder.execute("BEGIN EXCLUSIVE")
        for call in (keyring.lines, keyring.changes, lambda: keyring.add("alice", expires=None, now=NOW)):
            self.assertRaises(KeyringLocked, call)
        holder.execute("ROLLBACK")
        self.assertEqual(keyring.lines(), [])
        keyring.add("alice", expires=None, now=NOW)

    def test_a_killed_process_leaves_all_that_it_said_was_done(self) -> None:
        """Whenever it is killed, the keyring is whole, and nothing that was done is undone."""
        keyring = self.open()
        done: set[tuple[str, str]] = set()
        for round_number, heard in enumerate((1, 1, 2, 3, 5, 8, 13, 21)):
            process = self.process(f"r{round_number}-", count=1000)
            assert process.stdout is not None
            said = list(itertools.islice(process.stdout, heard))
            process.kill()
            said += process.communicate()[0].splitlines(keepends=True)
            self.assertEqual(said[0].strip(), keyring.pin.hex())
            for line in said[1:]:
                what, _, name = line.strip().partition(" ")
                done.add((what, name))
            self._check(done)

    def _check(self, done: set[tuple[str, str]]) -> None:
        with Keyring.open(self.directory, create=False) as keyring:
            lines = {issued.name: issued for issued in keyring.lines()}
        for what, name in done:
            self.assertIn(name, lines)
            if what == "revoke":
                self.assertEqual(lines[name].revoked, 2)
        database = sqlite3.connect(self.directory / "keyring.sqlite")
        self.addCleanup(database.close)
        self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])

    def test_a_creator_that_was_killed_is_in_nobodys_way(self) -> None:
        """What it left of a keyring is thrown away; the next process makes a whole one."""
        self.directory.mkdir(mode=0o700, parents=True)
        for remnant in ("keyring.draft", "keyring.draft-journal"):
            (self.directory / remnant).write_bytes(b"torn")
        self.assertRaises(KeyringMissing, Keyring.open, self.directory, create=False)
        self.open()
        self.assertEqual(sorted(self.directory.glob("*.draft*")), [])

    def test_creators_that_are_killed_leave_a_whole_keyring_or_none(self) -> None:
        """Two creators at a time, one of them killed at whatever point it had reached."""
        for number in range(6):
            self.directory = self.above / str(number)
            killed, left = self.process("a", 0), self.process("b", 0)
            while not self.directory.exists() and killed.poll() is None:
                pass  # it may have done it all by the time that this process looks again
            killed.kill()
            killed.communicate()
            said = left.communicate()[0].splitlines()
            self.assertEqual(left.returncode, 0)
            self.assertEqual(said, [self.open(create=False).pin.hex()])
