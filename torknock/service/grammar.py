"""What the grammars of both services share: a request or a reply is one line of words. Pure.

A line is printable ASCII and ends with LF: words, with a single space between each and the next. A number is decimal,
without sign or leading zeros; an address is an IP literal in its canonical form. A reply is `ok`, perhaps with words
behind it, or `no KIND TEXT`: a word for the program, a sentence for people.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from torknock.errors import TorknockError

LINE_AT_MOST = 16_384
"""Octets of a line, LF included."""

_LINE = re.compile(r"[!-~]+(?: [!-~]+)*")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_DIGITS_AT_MOST = 20


class Malformed(TorknockError):
    """What came is not of the grammar."""


class Lines:
    """Cuts octets into lines, however they come. Holds one line that is not complete, and what was fed behind it."""

    def __init__(self) -> None:
        self._inbox = bytearray()

    @property
    def partial(self) -> bool:
        """Whether something was fed that `line` has not returned."""
        return bool(self._inbox)

    def feed(self, octets: bytes) -> None:
        """Take what came. Call `line` until it returns None before feeding more."""
        self._inbox += octets

    def line(self) -> str | None:
        """The next line, without its LF; None until it is complete. Raises `Malformed` if none can come any more."""
        end = self._inbox.find(b"\n", 0, LINE_AT_MOST)
        if end < 0:
            if len(self._inbox) >= LINE_AT_MOST:
                raise Malformed(f"a line has at most {LINE_AT_MOST} octets")
            return None
        line = self._inbox[:end].decode("latin-1")
        del self._inbox[: end + 1]
        if not _LINE.fullmatch(line):
            raise Malformed("a line is words of printable ASCII with single spaces between them")
        return line


def octets(line: str) -> bytes:
    """*line* as it is sent. Raises `Malformed` if it is none."""
    if not _LINE.fullmatch(line) or len(line) >= LINE_AT_MOST:
        raise Malformed(f"a line is words of printable ASCII with single spaces, less than {LINE_AT_MOST} octets")
    return line.encode("ascii") + b"\n"


def number(word: str, low: int, high: int) -> int:
    """The number *low*..*high* that *word* is. Raises `Malformed`."""
    if len(word) <= _DIGITS_AT_MOST and _NUMBER.fullmatch(word) and low <= (value := int(word)) <= high:
        return value
    raise Malformed(f"a number from {low} to {high} is expected")


def address(word: str) -> IPv4Address | IPv6Address:
    """The address that *word* is, perhaps with an interface, as in `fe80::1%eth0`. Raises `Malformed`."""
    try:
        found = ip_address(word)
    except ValueError:
        raise Malformed("an IP address is expected") from None
    if str(found) != word:
        raise Malformed("an IP address in its canonical form is expected")
    return found


def no(kind: str, text: str) -> str:
    """The reply `no KIND TEXT`, with what could break the line replaced."""
    said = "".join(character if " " <= character <= "~" else "?" for character in text)
    return " ".join(["no", kind, *said[:1000].split()])
