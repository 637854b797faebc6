"""Tests of torknock.cli and of `torknock line`."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import tempfile
import termios
import time
from base64 import urlsafe_b64encode
from contextlib import closing
from pathlib import Path

import click
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import torknock.cli.open_keyring
import torknock.keyring.file
from torknock import cli
from torknock.cli import line_printed
from torknock.cli.options import duration, until
from torknock.keyring.lines import Keyring
from torknock.operate.card import qr_text
from torknock.protocol.bridge_line import parse_bridge_line, write_bridge_line

FINGERPRINT = "4352E58420E68F5E40BF7C74FADDCCD9D1349413"
WHERE = ("--address", "192.0.2.7:443", "--fingerprint", FINGERPRINT)
LINE_VERBS = ("add", "card", "expire", "list", "note", "revoke", "show")
ROOT = Path(__file__).parents[3]


@click.command()
def interrupted() -> None:
    """A verb that somebody ends with Ctrl-C."""
    raise KeyboardInterrupt


class CommandCase(SynchronousTestCase):
    """A DataDirectory, and the command."""

    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="torknock-")
        self.addCleanup(temporary.cleanup)
        self.data = Path(temporary.name)
        self.keyring = self.data / "pt_state" / "torknock"
        self.patch(torknock.keyring.file, "_MOMENT", 60.0)  # a slow disk is reported too

    def torknock(self, *arguments: str, stdin: str = "") -> Result:
        """What the command does with *arguments*."""
        result = CliRunner().invoke(cli.torknock, [*arguments], stdin, prog_name="torknock")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def line(self, verb: str, *arguments: str) -> Result:
        """What `torknock line` does with the keyring of this test."""
        return self.torknock("line", verb, *arguments, "--keyring", str(self.keyring))

    def said(self, result: Result) -> str:
        """What a command that succeeded wrote to stdout; it wrote nothing else."""
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        return result.stdout

    def refused(self, result: Result) -> str:
        """The one line that a command which could not do it wrote to stderr; nothing is on stdout."""
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertRegex(result.stderr, r"\Atorknock: [^\n]+\n\Z")
        return result.stderr


class CommandTests(CommandCase):
    """What all verbs have in common."""

    def test_help_imports_no_verb(self) -> None:
        """The list is there at once, even if a verb is broken."""
        self.patch(cli, "VERBS", {"nothing": cli.Verb("torknock.cli.nothing", "nothing", "Does nothing.")})
        self.assertIn("Does nothing.", self.said(self.torknock("--help")))

    def test_help_is_light(self) -> None:
        """It loads neither Twisted nor the keyring."""
        program = (
            "import sys; before = set(sys.modules); "
            "from torknock.cli import torknock; torknock(['--help'], standalone_mode=False); "
            "sys.exit(bool({'twisted', 'sqlite3', 'cryptography'} & (set(sys.modules) - before)))"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        self.assertIn(b"line", done.stdout)

    def test_every_verb_has_help(self) -> None:
        """With an example, where there is something to type."""
        for group, verbs in {"line": LINE_VERBS, "isn": ("list", "which")}.items():
            self.said(self.torknock(group, "--help"))
            for verb in verbs:
                self.assertIn(f"Example: torknock {group} {verb}", self.said(self.torknock(group, verb, "--help")))

    def test_a_wrong_call_is_status_2(self) -> None:
        """As of every other command."""
        for call in (["nothing"], ["line", "nothing"], ["line", "show"], ["--nothing"], ["line", "list", "alice"]):
            self.assertEqual(self.torknock(*call).exit_code, 2)

    def test_an_interruption_is_quiet(self) -> None:
        """Ctrl-C is no news."""
        self.patch(cli, "VERBS", {"interrupted": cli.Verb(__name__, "interrupted", "")})
        result = self.torknock("interrupted")
        self.assertEqual((result.exit_code, result.output), (130, ""))

    def test_a_reader_that_has_gone_is_quiet(self) -> None:
        """`torknock line list | head -0` says nothing; a full disk is said."""
        self.said(self.line("add", "alice", *WHERE))
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "torknock", "line", "list", "--keyring", str(self.keyring)]
        done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        self.assertEqual(done.stderr, b"")
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count(b"\n"), 1)

    def printed(self, *arguments: str, encoding: str = "", redirect: str = "") -> subprocess.CompletedProcess[bytes]:
        """What a terminal of *encoding*, or what the shell's *redirect* leads to, is given by `torknock line`."""
        command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "torknock", "line", *arguments]
        environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
        if encoding:
            environment["PYTHONIOENCODING"] = encoding
        return subprocess.run(
            [*command, "--keyring", str(self.keyring)], cwd=ROOT, env=environment, capture_output=True, check=False
        )

    def test_a_terminal_that_is_not_utf_8(self) -> None:
        """No verb fails for its letters: `?` stands for them, and the QR code is in ASCII."""
        note = "caf\xe9 \u20ac \U0001f511"
        shown_in = {"iso8859-1": b"caf\xe9 ? ?", "ascii": b"caf? ? ?", "iso8859-15": b"caf\xe9 \xa4 ?"}
        for encoding, shown in shown_in.items():
            name = encoding.replace("-", "")
            done = self.printed("add", name, "--qr", *WHERE, encoding=encoding)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertTrue(done.stdout.isascii())
            self.assertIn(b"##", done.stdout)
            self.said(self.line("note", name, note))
            done = self.printed("list", encoding=encoding)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertIn(shown, done.stdout)
        self.assertEqual(self.printed("show", "ascii", "--qr").returncode, 0)  # the locale C says ascii

    def test_a_line_that_could_not_be_printed(self) -> None:
        """It is withdrawn, which is said, and its name is free; one that is printed, and its code not, stays."""
        self.said(self.line("add", "first", *WHERE))
        for redirect, reason in ((">/dev/full", b"No space left"), (">&-", b"stdout is closed")):
            done = self.printed("add", "alice", *WHERE, redirect=redirect)
            self.assertEqual(done.returncode, 1)
            self.assertIn(reason, done.stderr)
            self.assertIn(b"it is withdrawn, and opens nothing\n", done.stderr)
            self.assertEqual(self.names(), ["first"])
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "torknock", "line", "add", "alice", *WHERE, "--keyring", str(self.keyring)]
        gone = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        self.assertIn(b"Broken pipe", gone.stderr)
        self.assertEqual((gone.returncode, self.names()), (1, ["first"]))
        self.assertEqual(self.printed("show", "first", redirect=">/dev/full").returncode, 1)
        self.assertEqual(self.printed("add", "alice", *WHERE).returncode, 0)
        self.assertEqual(self.names(), ["first", "alice"])

    def test_a_line_that_could_not_be_withdrawn(self) -> None:
        """It is said, with what to do."""

        def full(text: str) -> None:
            (self.keyring / "keyring.sqlite").rename(self.data / "elsewhere")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(line_printed, "say", full)
        told = self.refused(self.line("add", "alice", *WHERE))
        self.assertIn("could not be withdrawn", told)
        self.assertIn("torknock line revoke alice", told)

    def names(self) -> list[str]:
        with Keyring.open(self.keyring, create=False) as keyring:
            return [issued.name for issued in keyring.lines()]

    def test_a_strange_file_name_does_not_break_the_line(self) -> None:
        """Whatever the error quotes."""
        self.keyring = self.data / "a\nb"
        self.refused(self.line("list"))


class DurationTests(SynchronousTestCase):
    """Time spans as people write them."""

    def test_units(self) -> None:
        """Minutes, hours, days, weeks."""
        self.assertEqual([duration(text) for text in ("30m", "12h", "90d", "2w")], [1800, 43200, 7776000, 1209600])

    def test_a_day(self) -> None:
        """A line opens until that day is over (UTC); one that is over already, or is in no calendar, is refused."""
        self.assertEqual(until("2127-01-31"), 4957113599)
        self.assertLess(abs(until("2w") - time.time() - 1209600), 60)
        for text in ("2020-01-31", "2127-02-30", "2127-1-3", "20270131", "9999-13-01"):
            self.assertRaises(click.BadParameter, until, text)
        self.assertEqual(until("9999-12-31"), 253402300799)

    @given(st.text() | st.from_regex(r"\d+[mhdw]"))
    def test_anything_else_is_an_error(self, text: str) -> None:
        """Nothing is guessed."""
        if not re.fullmatch(r"[1-9][0-9]{0,3}[mhdw]", text):
            self.assertRaises(click.BadParameter, duration, text)


class AddTests(CommandCase):
    """`torknock line add`."""

    def test_a_bridge_line_is_all_it_prints(self) -> None:
        """It is the one that the keyring holds."""
        written = self.said(self.line("add", "alice", *WHERE))
        with Keyring.open(self.keyring, create=False) as keyring:
            line = keyring.get("alice").line
            self.assertEqual(line.pin, keyring.pin)
        bridge_line = parse_bridge_line(written)
        self.assertEqual(bridge_line.line, line)
        self.assertEqual(written, write_bridge_line(bridge_line) + "\n")
        self.assertTrue(written.startswith(f"Bridge torknock 192.0.2.7:443 {FINGERPRINT} key="))

    def test_every_option_is_in_the_line(self) -> None:
        """An IPv6 address stands in brackets."""
        options = ("--n", "20", "--sni", "a.example", "--channel", "raw", "--address", "[2001:db8::7]:8443")
        written = self.said(self.line("add", "alice", "--fingerprint", FINGERPRINT.lower(), *options))
        self.assertTrue(written.startswith(f"Bridge torknock [2001:db8::7]:8443 {FINGERPRINT} key="))
        self.assertTrue(written.endswith(" n=20 sni=a.example channel=raw\n"))

    def test_a_shaped_line(self) -> None:
        """The option is in the line, and in the line that is shown later."""
        written = self.said(self.line("add", "alice", "--shape", *WHERE))
        self.assertTrue(written.endswith(" shape=1\n"))
        self.assertEqual(self.said(self.line("show", "alice")), written)

    def test_it_expires_when_it_was_told_to(self) -> None:
        """The time counts from now."""
        before = int(time.time())
        self.said(self.line("add", "alice", "--expires", "90d", *WHERE))
        with Keyring.open(self.keyring, create=False) as keyring:
            issued = keyring.get("alice")
        self.assertEqual(issued.expires, issued.created + 90 * 86400)
        self.assertGreaterEqual(issued.created, before)

    def test_address_and_fingerprint_are_remembered(self) -> None:
        """The second line needs neither."""
        self.said(self.line("add", "alice", *WHERE))
        written = self.said(self.line("add", "bob"))
        self.assertTrue(written.startswith(f"Bridge torknock 192.0.2.7:443 {FINGERPRINT} key="))

    def test_tors_own_files_are_read(self) -> None:
        """The first line needs neither, if tor runs a bridge there."""
        (self.data / "fingerprint").write_text(f"Unnamed {FINGERPRINT}\n")
        (self.data / "bridgelines").write_text(
            f"# lines\nBridge obfs4 192.0.2.9:1 {FINGERPRINT}\nBridge torknock 0.0.0.0:443 {FINGERPRINT}\n"
            f"Bridge torknock 127.0.0.1:443 {FINGERPRINT}\nBridge torknock 192.0.2.8:443 {FINGERPRINT}\n"
        )
        written = self.said(self.line("add", "alice"))
        self.assertTrue(written.startswith(f"Bridge torknock 192.0.2.8:443 {FINGERPRINT} key="))

    def test_what_is_not_known_must_be_named(self) -> None:
        """Damaged files tell nothing, a loopback address is of no use, and no line is issued that cannot be printed."""
        (self.data / "fingerprint").write_bytes(b"\xff\x00 x y\n\n")
        (self.data / "bridgelines").write_bytes(b"\xff\nBridge torknock\nBridge torknock 127.0.0.1:443 x\n")
        self.assertIn("--address", self.refused(self.line("add", "alice", *WHERE[2:])))
        self.assertIn("--fingerprint", self.refused(self.line("add", "alice", *WHERE[:2])))
        with Keyring.open(self.keyring, create=False) as keyring:
            self.assertEqual(keyring.lines(), [])
            self.assertEqual(keyring.setting("address"), None)

    def test_tors_user_can_put_anything_there(self) -> None:
        """A pipe, a device without an end, a file without an end: nothing waits for them, and nothing is learnt."""
        endless = self.data / "endless"
        endless.touch()
        os.truncate(endless, 1 << 40)
        os.mkfifo(self.data / "pipe")
        for what in (Path("/dev/zero"), endless, self.data / "pipe"):
            for name in ("fingerprint", "bridgelines"):
                (self.data / name).unlink(missing_ok=True)
                (self.data / name).symlink_to(what)
            self.assertIn("--fingerprint", self.refused(self.line("add", "alice", *WHERE[:2])))
            self.assertIn("--address", self.refused(self.line("add", "alice", *WHERE[2:])))

    def test_a_keyring_outside_a_datadirectory_asks(self) -> None:
        """tor's files are looked for where tor's pt_state is, nowhere else."""
        (self.data / "fingerprint").write_text(f"Unnamed {FINGERPRINT}\n")
        self.keyring = self.data / "elsewhere" / "torknock"
        self.assertIn("--fingerprint", self.refused(self.line("add", "alice", *WHERE[:2])))

    def test_a_name_is_used_once(self) -> None:
        """The first line remains what it was."""
        written = self.said(self.line("add", "alice", *WHERE))
        self.assertIn("alice already", self.refused(self.line("add", "alice", *WHERE)))
        self.assertEqual(self.said(self.line("show", "alice")), written)

    def test_a_knock_line_needs_a_filtered_port(self) -> None:
        """On any other, and where the posture is not known, it is refused with the reason and what to do."""
        for posture in (None, "closed", "decoy", "nonsense"):
            if posture is not None:
                with Keyring.open(self.keyring, create=True) as keyring:
                    keyring.set_setting("posture", posture)
            said = self.refused(self.line("add", "carol", "--scheme", "knock", *WHERE))
            self.assertIn("posture=filtered", said)
            self.assertIn("setup bridge --posture filtered", said)
            self.assertIn("delays the answer" if posture in ("closed", "decoy") else "not known", said)
        with Keyring.open(self.keyring, create=False) as keyring:
            self.assertEqual((keyring.lines(), keyring.setting("address")), ([], None))
            keyring.set_setting("posture", "filtered")
        self.assertIn(" scheme=knock", self.said(self.line("add", "carol", "--scheme", "knock", *WHERE)))
        self.assertIn(" scheme=knock", self.said(self.line("show", "carol")))
        with Keyring.open(self.keyring, create=False) as keyring:
            keyring.set_setting("posture", "closed")
        for verb in ("show", "card"):
            self.assertIn("setup bridge --posture filtered", self.refused(self.line(verb, "carol")))

    def test_bad_options_are_status_2(self) -> None:
        """Nothing is made."""
        for options in (
            ("--expires", "5"), ("--expires", "-1d"), ("--expires", "0d"), ("--n", "0"), ("--n", "1025"),
            ("--channel", "quic"), ("--address", "bridge.example:443"), ("--address", "0.0.0.0:443"),
            ("--address", "192.0.2.7:0"), ("--fingerprint", FINGERPRINT[1:]), ("--fingerprint", "$" + FINGERPRINT),
        ):  # fmt: skip
            self.assertEqual(self.line("add", "alice", *WHERE, *options).exit_code, 2)
        self.assertEqual(list(self.data.iterdir()), [])

    def test_a_bad_name_is_refused(self) -> None:
        """A line's, and a host's."""
        self.refused(self.line("add", "a b", *WHERE))
        self.assertIn(" sni ", self.refused(self.line("add", "alice", "--sni", "A.example", *WHERE)))


class ShowTests(CommandCase):
    """`torknock line show`, `list`, `revoke`, `expire` and `note`."""

    def test_a_line_is_shown_again(self) -> None:
        """Also for another address, which is not remembered."""
        written = self.said(self.line("add", "alice", *WHERE))
        self.assertEqual(self.said(self.line("show", "alice")), written)
        other = self.said(self.line("show", "alice", "--address", "[2001:db8::7]:443"))
        self.assertEqual(other, written.replace("192.0.2.7", "[2001:db8::7]"))
        self.assertEqual(self.said(self.line("show", "alice")), written)

    def test_a_line_that_ended_is_not_shown(self) -> None:
        """Nobody is given a line that opens nothing."""
        self.said(self.line("add", "alice", *WHERE))
        self.said(self.line("revoke", "alice"))
        self.assertIn("revoked", self.refused(self.line("show", "alice")))
        with Keyring.open(self.keyring, create=False) as keyring:
            keyring.add("bob", expires=2, now=1)
        said = self.refused(self.line("show", "bob"))
        self.assertIn("expired", said)
        self.assertIn("line add", said)
        self.assertIn("line expire bob", said)
        with Keyring.open(self.keyring, create=False) as keyring:
            keyring.erase(3)
        self.assertIn("erased", self.refused(self.line("show", "bob")))
        listed = self.said(self.line("list"))
        self.assertIn("alice", listed)
        self.assertIn("1970-01-01", listed)

    def test_a_line_whose_expiry_is_changed_is_shown(self) -> None:
        """For how long, is said; nothing else is. One whose secret is erased stays closed."""
        with Keyring.open(self.keyring, create=True) as keyring:
            keyring.add("bob", expires=int(time.time()) + 60, now=1)
            keyring.add("carol", expires=2, now=1)
            keyring.erase(3)
        self.assertIn("erased", self.refused(self.line("expire", "carol", "90d")))
        before = int(time.time())
        self.assertRegex(
            self.said(self.line("expire", "bob", "90d")), r"\Abob expires at \d{4}-\d\d-\d\d \d\d:\d\d UTC\n\Z"
        )
        with Keyring.open(self.keyring, create=False) as keyring:
            expires = keyring.get("bob").expires
            assert expires is not None
        self.assertGreaterEqual(expires, before + 90 * 86_400)
        self.assertIn("Bridge", self.said(self.line("show", "bob", *WHERE)))
        self.assertEqual(self.said(self.line("expire", "bob", "never")), "bob never expires\n")
        for time_ in ("", "0d", "for ever", "2020-01-01"):
            self.assertEqual(self.line("expire", "bob", time_).exit_code, 2)
        self.said(self.line("revoke", "bob"))
        self.assertIn("revoked", self.refused(self.line("expire", "bob", "90d")))

    def test_no_command_erases_by_a_clock_that_is_wrong(self) -> None:
        """One that is years ahead says that a line has expired; once the clock is set, the line opens as before."""
        written = self.said(self.line("add", "alice", "--expires", "90d", *WHERE))
        right = time.time
        self.patch(time, "time", lambda: right() + 10 * 365 * 86_400)
        self.assertIn("expired", self.said(self.line("list")))
        self.assertIn("expired", self.refused(self.line("show", "alice")))
        self.said(self.line("add", "bob", *WHERE))
        self.said(self.line("note", "bob", "a note"))
        self.said(self.line("revoke", "bob"))
        self.patch(time, "time", right)
        self.assertEqual(self.said(self.line("show", "alice")), written)

    def test_a_keyring_that_another_program_holds(self) -> None:
        """That it waits is said once, on stderr; in the end one line says why it gives up, and nothing was changed."""
        written = self.said(self.line("add", "alice", *WHERE))
        usual = torknock.keyring.file._MOMENT
        self.patch(torknock.keyring.file, "_MOMENT", 0.01)
        self.patch(torknock.cli.open_keyring, "TIMEOUT", 0.25)
        with closing(sqlite3.connect(self.keyring / "keyring.sqlite", isolation_level=None)) as holder:
            for begin, verbs in (
                ("BEGIN EXCLUSIVE", (["list"], ["show", "alice"], ["add", "bob", *WHERE], ["revoke", "alice"])),
                ("BEGIN IMMEDIATE", (["add", "bob", *WHERE], ["revoke", "alice"], ["expire", "alice", "1d"])),
            ):
                holder.execute(begin)
                for verb in verbs:
                    result = self.line(*verb)
                    self.assertEqual((result.exit_code, result.stdout), (1, ""))
                    waits, gives_up = result.stderr.splitlines()
                    self.assertTrue(waits.startswith("torknock: waiting for the keyring"), waits)
                    self.assertIn("another program holds it; wait until that program", gives_up)
                self.assertEqual(self.line("list").exit_code, int("EXCLUSIVE" in begin))
                holder.execute("ROLLBACK")
        self.patch(torknock.keyring.file, "_MOMENT", usual)
        self.assertEqual(self.said(self.line("show", "alice")), written)
        self.assertNotIn("bob", self.said(self.line("list")))

    def test_a_revocation_may_cut(self) -> None:
        """At once or later; the bridge is told by the keyring."""
        self.said(self.line("add", "alice", *WHERE))
        for options, cut in (([], False), (["--cut"], True)):
            self.assertIn("alice is revoked", self.said(self.line("revoke", "alice", *options)))
            with Keyring.open(self.keyring, create=False) as keyring:
                self.assertEqual(keyring.get("alice").cut, cut)

    def test_a_note_is_kept_replaced_and_removed(self) -> None:
        """It is the operator's: no line has it in it."""
        written = self.said(self.line("add", "alice", "--note", "für Alice", *WHERE))
        self.assertIn("für Alice", self.said(self.line("list")))
        self.said(self.line("note", "alice", "[bold]moved[/bold] \\"))
        listed = self.said(self.line("list"))
        self.assertIn("[bold]moved[/bold] \\", listed)
        self.assertNotIn("Alice", listed)
        self.said(self.line("note", "alice", ""))
        self.assertNotIn("moved", self.said(self.line("list")))
        self.assertEqual(self.said(self.line("show", "alice")), written)
        for note in ("x" * 201, "a\nb", "\x1b[2J"):
            self.assertIn("200", self.refused(self.line("note", "alice", note)))
            self.assertIn("200", self.refused(self.line("add", "bob", "--note", note, *WHERE)))

    def test_the_list_is_for_scripts_too(self) -> None:
        """The same lines, as JSON; it holds nothing secret."""
        written = self.said(self.line("add", "alice", *WHERE))
        key = parse_bridge_line(written).line.secret[:64]
        listed = self.said(self.line("list", "--json"))
        (alice,) = json.loads(listed)
        self.assertEqual((alice["name"], alice["state"], alice["connections"]), ("alice", "live", 0))
        with Keyring.open(self.keyring, create=False) as keyring:
            pin = keyring.pin
        for octets in (key, pin):
            text = urlsafe_b64encode(octets).decode().rstrip("=")
            self.assertIn(text, written)
            for output in (listed, self.said(self.line("list"))):
                self.assertNotIn(text, output)
                self.assertNotIn(octets.hex(), output)

    def test_an_empty_list_is_an_empty_array(self) -> None:
        """And nothing on stderr."""
        Keyring.open(self.keyring, create=True).close()
        self.assertEqual(self.said(self.line("list", "--json")), "[]\n")

    def test_an_empty_list_says_so(self) -> None:
        """On stderr: a script that counts lines counts none."""
        Keyring.open(self.keyring, create=True).close()
        result = self.line("list")
        self.assertEqual((result.exit_code, result.stdout), (0, ""))
        self.assertIn("line add", result.stderr)

    def test_an_unknown_name_is_refused(self) -> None:
        """In one line."""
        Keyring.open(self.keyring, create=True).close()
        for verb, *rest in (["show"], ["card"], ["revoke"], ["expire", "never"], ["note", "x"]):
            self.assertIn("bob", self.refused(self.line(verb, "bob", *rest)))
            self.refused(self.line(verb, "b\nb", *rest))

    def test_a_keyring_that_is_not_there_is_said(self) -> None:
        """And none is made."""
        for call in (
            ("list",),
            ("show", "alice"),
            ("card", "alice"),
            ("revoke", "alice"),
            ("expire", "alice", "never"),
        ):
            self.assertIn("no keyring", self.refused(self.line(*call)))
        self.assertEqual(list(self.data.iterdir()), [])

    def test_a_damaged_keyring_is_said(self) -> None:
        """By each verb, in one line."""
        self.keyring.mkdir(mode=0o700, parents=True)
        (self.keyring / "keyring.sqlite").write_bytes(b"not a database" * 99)
        for call in (("list",), ("show", "alice"), ("revoke", "alice"), ("add", "alice", *WHERE)):
            self.refused(self.line(*call))


class TerminalTests(CommandCase):
    """A QR code in a terminal."""

    def on_terminal(self, lines: int, pager: str) -> bytes:
        """What `line add --qr` writes to a terminal of so many lines, where *pager* is the pager."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (lines, 80))
        add = ["line", "add", "alice", "--qr", "--keyring", str(self.keyring), *WHERE]
        command = [sys.executable, "-m", "torknock", *add]
        environ = {**os.environ, "TERM": "xterm", "PAGER": pager, "PYTHONIOENCODING": "utf-8"}
        for name in ("LINES", "COLUMNS"):
            environ.pop(name, None)
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=ROOT):
            os.close(theirs)
            written = b""
            while True:
                try:
                    written += os.read(ours, 65_536)
                except OSError:  # EIO: the command has ended
                    os.close(ours)
                    return written

    def test_a_code_that_fits(self) -> None:
        """It is written as it is."""
        self.assertNotIn(b"paged", self.on_terminal(50, "sed s/^/paged/"))

    def test_a_code_that_does_not_fit(self) -> None:
        """In a pager, which draws it again when the window grows; no line of it has scrolled away."""
        written = self.on_terminal(24, "sed s/^/paged/").splitlines()
        paged = [line for line in written if line.startswith(b"paged")]
        self.assertIn(b"taller", paged[0])
        self.assertGreater(len(paged), 24)
        self.assertLess(max(len(click.unstyle(line.decode())) for line in paged[1:]), 81 + len("paged"))


class DrawingTests(CommandCase):
    """A line as a picture, and as a page to print."""

    def setUp(self) -> None:
        super().setUp()
        self.written = self.said(self.line("add", "alice", "--expires", "90d", "--note", "her brother", *WHERE))

    def test_the_code_stands_below_the_line(self) -> None:
        """For who has only a terminal, or a pipe; the first line is the bridge line in any case."""
        said = self.said(self.line("show", "alice", "--qr"))
        self.assertEqual(said, self.written + click.unstyle(qr_text(self.written.strip(), "utf-8")) + "\n")
        added = self.said(self.line("add", "bob", "--qr")).splitlines()
        self.assertEqual(parse_bridge_line(added[0]).port, 443)
        self.assertTrue(set("".join(added[1:])) <= set(" ▀▄█"))

    def test_pictures_are_written(self) -> None:
        """For nobody else to read; stdout is as ever."""
        png, svg = self.data / "a.png", self.data / "a.svg"
        self.assertEqual(self.said(self.line("show", "alice", "--png", str(png), "--svg", str(svg))), self.written)
        for path, begins in ((png, b"\x89PNG"), (svg, b"<?xml")):
            self.assertTrue(path.read_bytes().startswith(begins))
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    def test_no_line_is_issued_for_a_picture_that_cannot_be(self) -> None:
        """It would have to be found in the list, and revoked."""
        there = self.data / "there"
        there.write_text("mine")
        for option in ("--png", "--svg"):
            for path in (there, self.data / "nowhere" / "a", self.data):
                self.assertEqual(self.line("add", "bob", option, str(path)).exit_code, 2)
        self.assertEqual(there.read_text(), "mine")
        with Keyring.open(self.keyring, create=False) as keyring:
            self.assertEqual([issued.name for issued in keyring.lines()], ["alice"])

    def test_a_card_is_written(self) -> None:
        """Its name is what is printed; the name of the line and the note are not on it."""
        path = self.data / "page.html"
        self.assertEqual(self.said(self.line("card", "alice", "--output", str(path))), f"{path}\n")
        page = path.read_text()
        self.assertIn(self.written.strip().removeprefix("Bridge "), page)
        self.assertNotIn("alice", page)
        self.assertNotIn("brother", page)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.line("card", "alice", "--output", str(path)).exit_code, 2)
        self.assertEqual(path.read_text(), page)

    def test_a_cards_name_names_nobody(self) -> None:
        """Browsers print it at the foot of the page. One that is there stays."""
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.data)
        self.assertEqual(self.said(self.line("card", "alice")), "card.html\n")
        self.assertEqual(self.said(self.line("card", "alice")), "card-2.html\n")
        self.assertIn("exists already", self.line("card", "alice", "--output", "card.html").output)
        self.assertIn("[2001:db8::7]:8443", self.page("alice", "--address", "[2001:db8::7]:8443"))

    def page(self, *arguments: str) -> str:
        """The card that these *arguments* make."""
        path = self.data / "another.html"
        self.said(self.line("card", *arguments, "--output", str(path)))
        return path.read_text()

    def test_there_is_no_card_of_a_line_that_ended(self) -> None:
        """Nobody is given a line that opens nothing."""
        self.said(self.line("revoke", "alice"))
        path = self.data / "page.html"
        self.assertIn("revoked", self.refused(self.line("card", "alice", "--output", str(path))))
        self.assertIn("revoked", self.refused(self.line("show", "alice", "--png", str(path))))
        self.assertFalse(path.exists())

    def test_a_strange_file_name_is_no_traceback(self) -> None:
        """Whatever octets it is made of."""
        path = os.fsdecode(bytes(self.data) + b"/\xff.html")
        self.assertEqual(self.line("card", "alice", "--output", path).exit_code, 0)
        self.assertEqual(self.line("card", "alice", "--output", path).exit_code, 2)
