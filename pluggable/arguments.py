r"""`key=value` lists in the three dialects of pt-spec: SOCKS (§3.5), `SMETHOD ARGS` (§3.3.3), server options (§3.2.3).

Pure. A backslash makes the next character literal. Bytes that are not UTF-8 survive as surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pluggable.errors import ArgumentsError

Arguments = tuple[tuple[str, str], ...]
"""Items in the order in which they came; a key may come twice."""

_PLAIN = re.compile(r"[A-Za-z0-9._~/+:-]*")


def parse_socks(octets: bytes) -> Arguments:
    r"""The arguments of a bridge line, as tor sends them in a SOCKS request: `k=v;k=v` (pt-spec §3.5).

    `=` in a value may be escaped or not: the specification asks for it, tor does not do it. Raises `ArgumentsError`.
    """
    text = octets.decode("utf-8", "surrogateescape")
    items, at = [], 0
    while text:
        key, value, at = _item(text, at)
        items.append((key, value))
        if at == len(text):
            break
        at += 1
    return tuple(items)


def write_socks(arguments: Iterable[tuple[str, str]]) -> bytes:
    """What `parse_socks` reads."""
    text = ";".join(f"{_escaped(key)}={_escaped(value)}" for key, value in arguments)
    return text.encode("utf-8", "surrogateescape")


def write_smethod(arguments: Mapping[str, str]) -> str:
    """`k=v,k=v` for `SMETHOD … ARGS:` (pt-spec §3.3.3), or "" for none.

    tor publishes these and writes them into bridge lines without undoing any escape, so keys and values may only hold
    `A-Z a-z 0-9 . _ ~ / + : -`. Raises `ValueError` for others, and for an empty key: no operator can help that.
    """
    for key, value in arguments.items():
        if not key or not _PLAIN.fullmatch(key) or not _PLAIN.fullmatch(value):
            raise ValueError(f"SMETHOD argument {key!r}: only A-Z a-z 0-9 . _ ~ / + : - survive tor")
    return ",".join(f"{key}={value}" for key, value in arguments.items())


def parse_server_options(text: str) -> dict[str, Arguments]:
    """The options of each transport in `name:k=v;name:k=v` (pt-spec §3.2.3). Raises `ArgumentsError`."""
    options: dict[str, Arguments] = {}
    at = 0
    while text:
        name, end = _until(text, at, ":;=")
        if not name or text[end : end + 1] != ":":
            raise ArgumentsError(f"item at character {at + 1}: no transport's name before a colon")
        key, value, at = _item(text, end + 1)
        options[name] = (*options.get(name, ()), (key, value))
        if at == len(text):
            break
        at += 1
    return options


def _item(text: str, at: int) -> tuple[str, str, int]:
    """Key and value of the item at *at*, and where it ends."""
    key, end = _until(text, at, "=;")
    if not key or text[end : end + 1] != "=":
        raise ArgumentsError(f"item at character {at + 1}: not key=value")
    value, end = _until(text, end + 1, ";")
    return key, value, end


def _until(text: str, at: int, ends: str) -> tuple[str, int]:
    """The text from *at* to the first unescaped character of *ends*, unescaped, and where it ends."""
    taken = []
    while at < len(text) and text[at] not in ends:
        if text[at] == "\\":
            at += 1
            if at == len(text):
                raise ArgumentsError("a lone backslash at the end")
        taken.append(text[at])
        at += 1
    return "".join(taken), at


def _escaped(text: str) -> str:
    return re.sub(r"([\\;=])", r"\\\1", text)
