"""Finds the `server` block with TLS of an nginx configuration, and has a file included in it. Pure."""

from __future__ import annotations

import re
from pathlib import PurePath

from attrs import define, frozen

_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|(?:\\.|\$\{[^}]*\}|[^\s;{}\\])+""", re.DOTALL)
"""A comment, a string, a mark, or a word (nginx's own reader, ngx_conf_file.c)."""


@frozen
class ServerBlock:
    """A `server` block that listens with TLS."""

    at: int
    """Behind its brace."""
    http2: bool
    """Whether a `listen` of it says so: visitors are offered HTTP/2 there."""


@define
class _Block:
    is_server: bool
    at: int
    has_tls: bool = False
    http2: bool = False


def blocks_with_tls(text: str) -> list[ServerBlock]:
    """The `server` blocks of *text* that listen with TLS."""
    found: list[ServerBlock] = []
    around: list[_Block] = []
    words: list[str] = []
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word.startswith("#"):
            continue
        if word not in ("{", "}", ";"):
            words.append(word)
            continue
        if word == "{":
            around.append(_Block(words == ["server"], token.end()))
        elif word == ";" and around and words[:1] == ["listen"] and "ssl" in words[2:]:
            around[-1].has_tls = True
            around[-1].http2 |= "http2" in words
        elif word == "}" and around:
            block = around.pop()
            found += [ServerBlock(block.at, block.http2)] if block.is_server and block.has_tls else []
        words = []
    return found


def addition(text: str, at: int, snippet: str) -> str:
    """What includes *snippet* in the block of *text* that begins *at*, if it is put there."""
    end = "" if text.startswith("\n", at) else "\n"  # a comment ends with its line
    return f"\n    include {snippet};  # added by torknock setup{end}"


def includes(text: str, snippet: str) -> bool:
    """Whether a line of *text* includes *snippet*, by its whole path or as people write it in `/etc/nginx`."""
    return any(_is_include(line, snippet) for line in text.splitlines())


def without(text: str, added: str, snippet: str) -> str:
    """*text* without what was *added*; if that is not there as it was, without the lines that include *snippet*."""
    if added and added in text:
        return text.replace(added, "", 1)
    return "".join(line for line in text.splitlines(keepends=True) if not _is_include(line, snippet))


def _is_include(line: str, snippet: str) -> bool:
    path = PurePath(snippet)
    found = re.match(r"""\s*include\s+["']?([^\s"';]+)["']?\s*;\s*(?:#.*)?$""", line)
    return found is not None and found[1] in (snippet, f"{path.parent.name}/{path.name}")
