"""Tests of torknock.keyring.line_errors: what a person is told, and what can be a name or a note."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.keyring.line_errors import (
    NOTE_AT_MOST,
    BadName,
    BadNote,
    LineErased,
    LineExists,
    LineRevoked,
    LineUnknown,
    check_name,
    check_note,
)


class MessageTests(SynchronousTestCase):
    """The messages."""

    def test_each_error_of_a_line_names_it_and_says_what_to_do(self) -> None:
        """In one line."""
        for error, what, remedy in (
            (LineExists("alice"), "there is a line called alice already", "torknock line list"),
            (LineUnknown("alice"), "no line is called alice", "torknock line list"),
            (LineRevoked("alice"), "the line alice is revoked", "torknock line add"),
            (LineErased("alice"), "the line alice has expired", "torknock line add"),
        ):
            self.assertIn(what, str(error))
            self.assertIn(remedy, error.remedy)
            self.assertTrue(str(error).isprintable())

    def test_what_is_allowed_is_said(self) -> None:
        """Where a name or a note is refused."""
        self.assertIn("1 to 64 of the characters", str(BadName()))
        self.assertIn("at most 200 printable characters", str(BadNote()))


class CheckTests(SynchronousTestCase):
    """`check_name`, `check_note`."""

    def test_names_have_1_to_64_characters(self) -> None:
        """None that a shell, a file system or an option would take for something else."""
        for name in ("a", "A.b_c-d", ".", "7", 64 * "x"):
            check_name(name)
        for name in ("", 65 * "x", "-a", "a b", "a/b", "a\n", "\u00e9"):
            self.assertRaises(BadName, check_name, name)

    def test_a_note_is_one_line(self) -> None:
        """Of any language, or empty."""
        for note in ("", "caf\u00e9 number 7", NOTE_AT_MOST * "x"):
            check_note(note)
        for note in ((NOTE_AT_MOST + 1) * "x", "a\nb", "\x1b[0m"):
            self.assertRaises(BadNote, check_note, note)
