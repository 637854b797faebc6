"""Tests of torknock.protocol.word, and that each list of words is in one place."""

from __future__ import annotations

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from torknock.cli import torknock
from torknock.protocol.bridge_line import USUAL, Channel, LineError, Scheme, parse_arguments
from torknock.protocol.door import Posture
from torknock.service.gate_requests import parse
from torknock.service.grammar import Malformed


class WordTests(SynchronousTestCase):
    """`Word`."""

    def test_a_word_is_read_as_it_is_written_and_nothing_else_is(self) -> None:
        """Neither another case nor the member's name."""
        for kind in (Posture, Scheme, Channel):
            for member in kind:
                self.assertIs(kind.read(str(member)), member)
                self.assertIsNone(kind.read(member.name))
            for other in ("", " ", "none", None):
                self.assertIsNone(kind.read(other))

    def test_words_are_written_as_issued_lines_torrc_and_the_access_list_have_them(self) -> None:
        """What was written once is read for ever."""
        self.assertEqual([*Posture], ["closed", "filtered", "decoy"])
        self.assertEqual([*Scheme], ["token", "knock"])
        self.assertEqual([*Channel], ["tls", "raw", "web"])
        self.assertEqual(USUAL, {"token": "tls", "knock": "raw"})

    def test_a_list_reads_as_a_clause(self) -> None:
        """Of two words or three."""
        self.assertEqual(Posture.listed(), "closed, filtered or decoy")
        self.assertEqual(Channel.listed(), "tls, raw or web")


class ListTests(SynchronousTestCase):
    """What people read is made from the words."""

    def test_messages_name_every_word(self) -> None:
        """Of the gate's grammar and of bridge lines."""
        with self.assertRaisesRegex(Malformed, Posture.listed()):
            parse("guard :: 443 open tokens")
        for name, kind in (("scheme", Scheme), ("channel", Channel)):
            with self.assertRaisesRegex(LineError, f"the argument {name} is not {kind.listed()}"):
                parse_arguments([("key", "A" * 43), ("pin", "A" * 43), (name, "other")])

    def test_help_and_completions_name_every_word(self) -> None:
        """And no name of Python's."""
        for command, kinds in ((["setup", "bridge"], [Posture]), (["line", "add"], [Scheme, Channel])):
            told = CliRunner().invoke(torknock, [*command, "--help"]).output
            for kind in kinds:
                self.assertIn(f"[{'|'.join(kind)}]", told)
        typed = {"COMP_WORDS": "torknock line add --channel ", "COMP_CWORD": "4"}
        asked = {**typed, "_TORKNOCK_COMPLETE": "bash_complete"}
        completed = CliRunner().invoke(torknock, prog_name="torknock", env=asked).output
        self.assertEqual(completed.split(), [f"plain,{channel}" for channel in Channel])

    def test_a_word_that_is_none_is_refused_with_those_that_are(self) -> None:
        """The exit status is 2, as for every wrong option."""
        done = CliRunner().invoke(torknock, ["line", "add", "alice", "--channel", "RAW"])
        self.assertEqual(done.exit_code, 2)
        for channel in Channel:
            self.assertIn(f"'{channel}'", done.output)
