"""Tests of torknock.operate.pasted: what mail programs, messengers and terminals do to a bridge line."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.protocol.test_bridge_line import BRIDGE_LINES, FINGERPRINT, KEY, PIN_TEXT, WRITTEN
from torknock.cli.options import read_bridge_line
from torknock.operate.pasted import LONGEST, read
from torknock.protocol.bridge_line import BridgeLine, LineError, parse_bridge_line, write_bridge_line

INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202a\ufe0f\x00\x1b"


class RepairTests(SynchronousTestCase):
    """`read`: what has one meaning."""

    def assert_repaired(self, pasted: str, *repairs: str) -> None:
        found = read(pasted)
        self.assertEqual(found.bridge_line, parse_bridge_line(WRITTEN))
        self.assertEqual(found.repairs, list(repairs))

    def test_a_line_as_it_was_issued_needs_no_repair(self) -> None:
        """Nothing is told."""
        self.assert_repaired(WRITTEN)
        self.assert_repaired(f"  {WRITTEN}\n")
        self.assertEqual(read(WRITTEN).report, "")

    def test_invisible_characters_are_removed_anywhere(self) -> None:
        """Anywhere, also within the key."""
        for each in INVISIBLE:
            self.assert_repaired(each + WRITTEN, "invisible characters")
            self.assert_repaired(WRITTEN.replace(KEY, f"{KEY[:20]}{each}{KEY[20:]}"), "invisible characters")

    def test_blanks_of_any_kind_are_one_blank(self) -> None:
        """Of another kind, or several."""
        for each in "\u00a0\u2007\u202f\u3000":
            self.assert_repaired(WRITTEN.replace(" ", each), "unusual blanks")
        self.assert_repaired(WRITTEN.replace(" ", " \t "))

    def test_quotation_marks_around_the_line_are_removed(self) -> None:
        """Around it, a pair or one."""
        for around in ('"{}"', "'{}'", "`{}`", "\u201c{}\u201d", "\u201e{}\u201c", "\u00ab{}\u00bb", '"{}', "{}'"):
            self.assert_repaired(around.format(WRITTEN), "quotation marks")

    def test_punctuation_around_the_line_is_removed(self) -> None:
        """Of the sentence that it stood in."""
        for each in (".", ",", ";", "..."):
            self.assert_repaired(WRITTEN + each, "punctuation at the end")
        self.assert_repaired(f'"{WRITTEN}".', "quotation marks", "punctuation at the end")

    def test_the_word_bridge_may_be_there_once_twice_or_not(self) -> None:
        """Twice, since torrc's has it already; with a colon; not at all."""
        self.assert_repaired(f"Bridge {WRITTEN}", "the second word Bridge")
        self.assert_repaired(f"bridge: {WRITTEN}", "the second word Bridge")
        self.assert_repaired(WRITTEN.removeprefix("Bridge "))

    def test_a_capital_letter_at_the_beginning_is_repaired(self) -> None:
        """Of a keyboard that starts words with them."""
        self.assert_repaired(WRITTEN.replace("torknock", "Torknock").replace("key=", "Key="), "capital letters")

    def test_the_marks_of_a_quoted_mail_are_removed(self) -> None:
        """By a mail program, once and twice, and wrapped by it."""
        self.assert_repaired(f"> {WRITTEN}", '"> " at the start of a line')
        wrapped = WRITTEN.replace(" key", "\n>> key")
        self.assert_repaired(f">> {wrapped}", '"> " at the start of a line', "line breaks")

    def test_a_line_that_was_wrapped_is_joined(self) -> None:
        """At a blank, and at any character."""
        for place in range(len("Bridge torknock"), len(WRITTEN)):
            self.assert_repaired(f"{WRITTEN[:place]}\n{WRITTEN[place:]}", "line breaks")
        narrow = "\r\n".join(WRITTEN[at : at + 40] for at in range(0, len(WRITTEN), 40))
        self.assert_repaired(narrow, "line breaks")

    @given(BRIDGE_LINES, st.data())
    def test_a_mangled_line_is_that_line_or_an_error(self, bridge_line: BridgeLine, data: st.DataObject) -> None:
        """However it was broken and sprinkled, it is that line or an error, never another line."""
        written = write_bridge_line(bridge_line)
        places = data.draw(st.lists(st.integers(0, len(written)), max_size=6, unique=True))
        for place in sorted(places, reverse=True):
            written = written[:place] + data.draw(st.sampled_from(["\n", "\u200b", "\u00a0", "\n> "])) + written[place:]
        try:
            found = read(written).bridge_line
        except LineError:
            return
        self.assertEqual(found, bridge_line)

    def test_repairs_are_reported_in_one_sentence(self) -> None:
        """In one sentence, without the line."""
        told = read(f"\ufeff'{WRITTEN}").report
        self.assertEqual(told, "bridge line repaired: invisible characters, quotation marks")


class RefusalTests(SynchronousTestCase):
    """`read`: what is not repaired."""

    def refused(self, pasted: str) -> str:
        with self.assertRaises(LineError) as caught:
            read(pasted)
        self.assertNotIn(KEY[5:], str(caught.exception))
        return str(caught.exception)

    def test_a_character_in_the_key(self) -> None:
        """It is named, with its place, and nothing of what stands beside it."""
        told = self.refused(WRITTEN.replace(KEY, f"{KEY[:11]}\u2014{KEY[12:]}"))
        self.assertIn("the argument key of the bridge line has U+2014 (em dash) as its character 12", told)
        self.assertIn("copy the line again", told)
        told = self.refused(WRITTEN.replace(PIN_TEXT, "/" + PIN_TEXT[1:]))
        self.assertIn("the argument pin of the bridge line has U+002F (solidus) as its character 1", told)

    def test_a_letter_of_another_alphabet_is_named_with_its_place(self) -> None:
        """A letter of another alphabet that looks the same."""
        told = self.refused(WRITTEN.replace(FINGERPRINT, "\u0430" + FINGERPRINT[1:]))
        self.assertIn("a word of the bridge line has U+0430 (cyrillic small letter a) as its character 1", told)

    def test_two_lines_are_refused(self) -> None:
        """Which one is meant is not guessed."""
        self.assertIn("more than one line", self.refused(f"{WRITTEN}\n{WRITTEN}"))

    def test_a_line_that_was_cut_off_is_refused(self) -> None:
        """Cut within the key or the pin."""
        self.assertIn("lacks the argument pin", self.refused(WRITTEN[: WRITTEN.index("key=") + 20]))
        self.assertIn("the argument pin is not 43 characters", self.refused(WRITTEN[:-3]))

    def test_a_long_text_is_refused(self) -> None:
        """A book is no line."""
        self.assertIn("longer", self.refused(WRITTEN + " " * LONGEST))

    @given(st.text(max_size=300))
    def test_any_text_is_a_line_or_one_error_without_a_secret(self, text: str) -> None:
        """It is no line, and the error is one line without a secret."""
        assume("torknock" not in text)
        with self.assertRaises(LineError) as caught:
            read(text)
        self.assertEqual(len(str(caught.exception).splitlines()), 1)


class VerbTests(SynchronousTestCase):
    """`read_bridge_line`: what `check` and `setup client` are given."""

    def test_a_line_that_the_shell_has_split_is_joined(self) -> None:
        """A line that the shell has split is one; repairs are told on stderr."""
        told = StringIO()
        with redirect_stderr(told):
            found = read_bridge_line(f"\u201c{WRITTEN}\u201d".split())
        self.assertEqual(found, parse_bridge_line(WRITTEN))
        self.assertEqual(told.getvalue(), "torknock: bridge line repaired: quotation marks\n")
