"""Tests of `torknock isn`."""

from __future__ import annotations

import json
import time
from ipaddress import IPv4Address
from pathlib import Path

from click.testing import Result

from tests.unit.cli.test_cli_line import CommandCase
from torknock.keyring.lines import Keyring
from torknock.protocol.bridge_line import BridgeLine, Line, Scheme, write_bridge_line
from torknock.protocol.token import epoch_at, tokens

VECTOR = json.loads((Path(__file__).parents[2] / "data" / "token_vectors.json").read_text())[0]
LINE = Line(bytes.fromhex(VECTOR["secret"]), bytes.fromhex(VECTOR["pin"]))
WRITTEN = write_bridge_line(BridgeLine(IPv4Address("192.0.2.7"), 443, None, LINE))
EPOCH = 5_984_821
MADE = (EPOCH - 12) * 300
"""When lines were issued: shortly before the epoch, because a ratchet of 50 years takes 0.1 s for each of them."""


class ISNCase(CommandCase):
    """A keyring with two lines, and a file with a third."""

    def setUp(self) -> None:
        super().setUp()
        with Keyring.open(self.keyring, create=True) as keyring:
            self.alice = keyring.add("alice", expires=None, now=MADE).line
            self.bob = keyring.add("bob", expires=None, now=MADE, n=3).line
        self.file = self.data / "line.txt"
        self.file.write_text(WRITTEN + "\n")

    def isns(self, line: Line, epoch: int) -> list[str]:
        """The ISNs of *line* as the command writes them."""
        return [f"0x{isn:08x}" for isn in tokens(line.secret, line.bridge_name, epoch, line.n)]


class ListTests(ISNCase):
    """`torknock isn list`."""

    def test_the_isns_of_a_line(self) -> None:
        """One a line, in derivation order."""
        for name, line in (("alice", self.alice), ("bob", self.bob)):
            said = self.said(self.torknock("isn", "list", name, "--epoch", str(EPOCH), "--keyring", str(self.keyring)))
            self.assertEqual(said.splitlines(), self.isns(line, EPOCH))

    def test_the_isns_of_a_bridge_line(self) -> None:
        """From a file or from stdin, without a keyring; they are those of the vector."""
        expected = "".join(f"0x{isn:08x}\n" for isn in VECTOR["tokens"])
        epoch = ("--epoch", VECTOR["epoch"])
        self.assertEqual(self.said(self.torknock("isn", "list", "--bridge-line", str(self.file), *epoch)), expected)
        self.assertEqual(self.said(self.torknock("isn", "list", "--bridge-line", "-", *epoch, stdin=WRITTEN)), expected)

    def test_the_last_epoch_is_one_of_64_bits(self) -> None:
        """Of 64 bits; the one after it is none."""
        call = ("isn", "list", "--bridge-line", str(self.file), "--epoch")
        self.assertEqual(self.said(self.torknock(*call, str(2**64 - 1))).split(), self.isns(LINE, 2**64 - 1))
        self.assertEqual(self.torknock(*call, str(2**64)).exit_code, 2)

    def test_one_line_is_asked_for(self) -> None:
        """Not none, and not two."""
        self.assertEqual(self.torknock("isn", "list").exit_code, 2)
        self.assertEqual(self.torknock("isn", "list", "alice", "--bridge-line", str(self.file)).exit_code, 2)

    def test_what_is_no_bridge_line_is_refused(self) -> None:
        """In one line that holds no secret."""
        for text in ("", "\n", "\x00\xff", WRITTEN + " n=0", f"{WRITTEN}\n{WRITTEN}", "x" * 10_000):
            refusal = self.refused(self.torknock("isn", "list", "--bridge-line", "-", stdin=text))
            self.assertNotIn("key=A", refusal)
        self.assertEqual(self.torknock("isn", "list", "--bridge-line", str(self.data / "nothing")).exit_code, 2)


class WhichTests(ISNCase):
    """`torknock isn which`."""

    def which(self, *arguments: str) -> list[str]:
        """What it finds in the keyring."""
        return self.said(self.torknock("isn", "which", *arguments, "--keyring", str(self.keyring))).splitlines()

    def test_an_isn_is_found(self) -> None:
        """In hexadecimal and in decimal, among the neighbours too."""
        for name, line in (("alice", self.alice), ("bob", self.bob)):
            for epoch in (EPOCH - 1, EPOCH, EPOCH + 1):
                isn = self.isns(line, epoch)[2]
                for written in (isn, isn.upper().replace("X", "x"), str(int(isn, 16))):
                    (found,) = self.which(written, "--epoch", str(EPOCH))
                    self.assertTrue(found.startswith(f"{name} epoch {epoch} (now-"))

    def test_an_isn_of_a_line_that_ended_is_not_traced(self) -> None:
        """Its secret is erased; and that is said."""
        with Keyring.open(self.keyring, create=True) as keyring:
            carol = keyring.add("carol", expires=MADE + 1, now=MADE).line
            keyring.revoke("bob", now=MADE + 1)
            keyring.erase(MADE + 2)
        where = ("--keyring", str(self.keyring))
        for name, line, state in (("bob", self.bob, "revoked"), ("carol", carol, "expired")):
            call = ("isn", "which", self.isns(line, EPOCH)[0], "--epoch", str(EPOCH))
            self.assertIn("revoked and expired lines are erased", self.refused(self.torknock(*call, *where)))
            self.assertIn(state, self.refused(self.torknock("isn", "list", name, *where)))

    def test_the_present_is_called_now(self) -> None:
        """An epoch that begins while the test runs is no matter."""
        present = epoch_at(time.time())
        with Keyring.open(self.keyring, create=False) as keyring:
            dave = keyring.add("dave", expires=None, now=present * 300).line
        (found,) = self.which(self.isns(dave, present)[0])
        self.assertIn(found, (f"dave epoch {present} (now)", f"dave epoch {present} (now-1)"))
        (found,) = self.which(self.isns(dave, present + 5)[0], "--window", "6")
        self.assertIn(found, (f"dave epoch {present + 5} (now+5)", f"dave epoch {present + 5} (now+4)"))

    def test_the_window_is_as_wide_as_it_was_told(self) -> None:
        """Farther away there is nothing; at either end of time the window is cut."""
        with Keyring.open(self.keyring, create=False) as keyring:
            isn = self.isns(keyring.add("carol", expires=None, now=1).line, 5)[0]
        call = ("isn", "which", isn, "--keyring", str(self.keyring))
        self.assertEqual(len(self.which(isn, "--epoch", "1", "--window", "4")), 1)
        self.assertIn("epochs 0 to 4", self.refused(self.torknock(*call, "--epoch", "1", "--window", "3")))
        self.assertIn(f"to {2**64 - 1}", self.refused(self.torknock(*call, "--epoch", str(2**64 - 1))))

    def test_a_bridge_line_is_enough(self) -> None:
        """No keyring is needed."""
        call = ("isn", "which", str(VECTOR["tokens"][3]), "--epoch", VECTOR["epoch"], "--bridge-line", str(self.file))
        self.assertTrue(self.said(self.torknock(*call)).startswith(f"this line epoch {VECTOR['epoch']} "))

    def test_an_isn_of_nobody_is_status_1(self) -> None:
        """0 is never one."""
        for isn in ("0", "0x0", "0x00000000"):
            self.refused(self.torknock("isn", "which", isn, "--keyring", str(self.keyring)))

    def test_what_is_no_isn_is_status_2(self) -> None:
        """Nothing is guessed."""
        for isn in ("", "x", "0x", "0x123456789", str(2**32), "-1", "1_0", "٣", "1234abcd", "0b1"):
            self.assertEqual(self.torknock("isn", "which", "--keyring", str(self.keyring), "--", isn).exit_code, 2)


class KnockTests(CommandCase):
    """`torknock isn --scheme knock`."""

    def knock(self, *options: str, secret: bytes = b"Magic secret string\n") -> Result:
        path = self.data / "secret"
        path.write_bytes(secret)
        where = ("--address", "2001:db8::2a:2a", "--port", "4242", "--tsval", "287454020", "--secret-file", str(path))
        return self.torknock("isn", "--scheme", "knock", *where, *options)

    def test_the_isns_are_those_of_the_draft(self) -> None:
        """In hexadecimal, on one line, nothing else."""
        self.assertEqual(self.said(self.knock()), f"{1227073602:#010x}\n")
        payload = self.data / "payload"
        payload.write_bytes(b"Protected payload goes here.")
        self.assertEqual(self.said(self.knock("--payload-file", str(payload))), f"{988151702:#010x}\n")

    def test_a_knock_line_has_no_list(self) -> None:
        """Its ISNs depend on the SYN; beside it, the lines that have one are found."""
        with Keyring.open(self.keyring, create=True) as keyring:
            keyring.add("carol", scheme=Scheme.KNOCK, secret=b"short", expires=None, now=1)
            line = keyring.add("alice", expires=None, now=1).line
        where = ("--keyring", str(self.keyring))
        self.assertIn("--scheme knock", self.refused(self.torknock("isn", "list", "carol", *where)))
        token = tokens(line.secret, line.bridge_name, 7, line.n)[0]
        said = self.said(self.torknock("isn", "which", str(token), "--epoch", "7", *where))
        self.assertTrue(said.startswith("alice epoch 7"))

    def test_what_is_missing_or_wrong_is_said(self) -> None:
        """And a secret is never shown."""
        for result in (
            self.torknock("isn", "--scheme", "knock", "--port", "443"),
            self.knock("--address", "bridge.example"),
            self.knock(secret=b""),
            self.knock(secret=b"s" * 65),
        ):
            self.assertEqual((result.exit_code, result.stdout), (2, ""))
            self.assertNotIn("sss", result.stderr)
