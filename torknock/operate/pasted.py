"""Bridge lines as people paste them. Pure.

Mail programs, messengers and terminals change what is copied out of them. What has one meaning is repaired, and the
repairs are reported; for anything else the error names the character, where it is, and what to do. No value is quoted.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from attrs import define, field

from torknock.protocol.bridge_line import BridgeLine, LineError, parse_bridge_line, write_bridge_line

LONGEST = 4096
"""Characters that are looked at."""

_BREAKS_AT_MOST = 10
"""Line breaks within one bridge line, each of which may be a blank or nothing."""

_CITED = re.compile(r"\s*(?:>\s*)+")
_QUOTES = "\"'`\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a"
_STOPS = ".,;:!"
_BEGINS = re.compile(r"(?:bridge:?\s+)*torknock\s", re.IGNORECASE)
_AGAIN = "copy the line again, as plain text"


@define
class Pasted:
    """A bridge line that was read, and what had to be done to it first."""

    bridge_line: BridgeLine
    repairs: list[str]
    """In words, such as "line breaks"; empty if the line was as it should be."""

    @property
    def report(self) -> str:
        """A sentence for the person who pasted it; empty if nothing was repaired."""
        return f"bridge line repaired: {', '.join(self.repairs)}" if self.repairs else ""


def read(text: str) -> Pasted:
    """The bridge line in *text*, at most `LONGEST` characters. Raises `LineError`."""
    if len(text) > LONGEST:
        raise LineError(f"this is longer than any bridge line ({LONGEST} characters)", "give one bridge line")
    cleaning = _Cleaning()
    lines = cleaning.lines(text)
    if sum(_BEGINS.match(line) is not None for line in lines) > 1:
        raise LineError("this is more than one line", "give one bridge line at a time")
    return Pasted(cleaning.read(lines), cleaning.repairs)


@define
class _Cleaning:
    repairs: list[str] = field(factory=list)

    def lines(self, text: str) -> list[str]:
        """The lines of *text* that are not empty, without what stands around them."""
        visible = self._changed("invisible characters", text, "".join(each for each in text if not _invisible(each)))
        lines = visible.splitlines()
        self._changed("unusual blanks", "".join(lines).translate({9: 32}), "".join(map(_blanks, lines)))
        if any(">" in line[:1] for line in map(str.strip, lines)):
            self.repairs.append('"> " at the start of a line')
        stripped = [_CITED.sub("", _blanks(line)).strip() for line in lines]
        return [line for line in stripped if line]

    def read(self, lines: Sequence[str]) -> BridgeLine:
        """The one bridge line that *lines*, joined with blanks or with nothing, can be."""
        if len(lines) < 2:
            return parse_bridge_line(self._words("".join(lines)))
        self.repairs.append("line breaks")
        before = list(self.repairs)
        found: dict[str, list[str]] = {}
        for text in _joined(lines):
            self.repairs = list(before)
            try:
                found[write_bridge_line(parse_bridge_line(self._words(text)))] = self.repairs
            except LineError:
                continue
        if len(found) != 1:
            self.repairs = before
            return parse_bridge_line(self._words(" ".join(lines)))
        [(written, self.repairs)] = found.items()
        return parse_bridge_line(written)

    def _words(self, line: str) -> str:
        """*line* without what cannot belong to it. Raises `LineError` for a character that no bridge line has."""
        text = self._changed("quotation marks", line, line.strip(_QUOTES + " "))
        text = self._changed("punctuation at the end", text, text.rstrip(_STOPS + _QUOTES + " "))
        words = text.split()
        while len(words) > 1 and _is_bridge(words[0]) and _is_bridge(words[1]):
            del words[0]
            self.repairs.append("the second word Bridge")
        words = [self._changed("capital letters", word, _lowered(word)) for word in words]
        for word in words:
            _check(word)
        return " ".join(words)

    def _changed(self, repair: str, before: str, after: str) -> str:
        if before != after and repair not in self.repairs:
            self.repairs.append(repair)
        return after


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Every text that *lines* may have been before they were broken."""
    breaks = len(lines) - 1
    choices = itertools.product(("", " "), repeat=breaks) if breaks <= _BREAKS_AT_MOST else [(" ",) * breaks]
    for between in choices:
        yield lines[0] + "".join(each for pair in zip(between, lines[1:], strict=True) for each in pair)


def _invisible(character: str) -> bool:
    """Whether *character* is not seen and takes no place: a zero-width space, a byte order mark, a control."""
    if "\ufe00" <= character <= "\ufe0f":  # variation selectors
        return True
    return unicodedata.category(character) in ("Cf", "Cc") and not character.isspace()


def _blanks(line: str) -> str:
    return "".join(" " if each.isspace() else each for each in line)


def _is_bridge(word: str) -> bool:
    return word.lower().rstrip(":") == "bridge"


def _lowered(word: str) -> str:
    """*word* with the name of the transport, or of an argument, in lower case: some keyboards capitalise."""
    name, equals, value = word.partition("=")
    if equals:
        return name.lower() + equals + value
    lowered = word.lower().rstrip(":")
    return {"torknock": "torknock", "bridge": "Bridge"}.get(lowered, word)


def _check(word: str) -> None:
    """Raise `LineError` if *word* has a character that it cannot have."""
    name, equals, value = word.partition("=")
    secret = equals and name in ("key", "pin")
    for place, character in enumerate(value if equals else word, 1):
        if not character.isascii() or (secret and not (character.isalnum() or character in "-_")):
            what = unicodedata.name(character, "a character without a name").lower()
            where = f"the argument {name}" if secret else "a word"
            raise LineError(
                f"{where} of the bridge line has U+{ord(character):04X} ({what}) as its character {place}, where only "
                f"{'letters, digits, - and _' if secret else 'ASCII'} can be",
                _AGAIN,
            )
