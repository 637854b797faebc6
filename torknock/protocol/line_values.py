"""The values of a bridge line's arguments: each is read, or refused (protocol.md §4). Pure."""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TypeVar

from torknock.errors import TorknockError
from torknock.protocol.word import Word

_HOST = re.compile(r"(?=.{1,253}\Z)(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)*(?!-)(?![0-9]+\Z)[a-z0-9-]{1,63}(?<!-)")
"""A host name in lower case (RFC 1123 §2.1); its last label is no number, so that it is never an address."""
NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_MOST_N = 1024
_W = TypeVar("_W", bound=Word)


class LineError(TorknockError):
    """A bridge line, or an argument of one, that is not as protocol.md §4 has it. It never quotes a value."""


def octets_of(given: dict[str, str], name: str, count: int = 32) -> bytes:
    """The *count* octets that the argument *name* is, in base64url without padding. Raises `LineError`."""
    text = given[name]
    length = -(-count * 8 // 6)
    if re.fullmatch(f"[A-Za-z0-9_-]{{{length}}}", text):
        octets = urlsafe_b64decode(text + "=" * (-length % 4))
        if hmac.compare_digest(base64_of(octets), text):  # the last character's spare bits are 0
            return octets
    form = f"{length} characters of base64url ({count} octets)"
    raise LineError(f"the argument {name} is not {form}", "copy the whole line")


def base64_of(octets: bytes) -> str:
    """*octets* in base64url without padding."""
    return urlsafe_b64encode(octets).decode("ascii").rstrip("=")


def number_of(text: str) -> int:
    """How many tokens per epoch *text* says. Raises `LineError`."""
    if not NUMBER.fullmatch(text) or int(text) > _MOST_N:
        raise LineError(f"the argument n is not a number from 1 to {_MOST_N}")
    return int(text)


def host_of(text: str) -> str:
    """The host name that *text* is. Raises `LineError`."""
    if not _HOST.fullmatch(text):
        raise LineError("the argument sni is not a host name in lower case")
    return text


def one_of(given: dict[str, str], name: str, kind: type[_W]) -> _W:
    """What *given* has for *name*, else the first of *kind*."""
    if (found := kind.read(given[name]) if name in given else next(iter(kind))) is None:
        raise LineError(f"the argument {name} is not {kind.listed()}")
    return found


def printable(name: str) -> str:
    """*name* for a message, unless it could be a secret that lost its `=`, or break the line."""
    return name if re.fullmatch(r"[a-z][a-z0-9_-]{0,15}", name) else "(not shown)"
