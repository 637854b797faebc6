"""Removes from a text what no stranger may read: addresses, fingerprints, secrets. Pure."""

from __future__ import annotations

import re

_SECRET = re.compile(r"\b(key|pin|sni|secret|password|cert|url)=\S+", re.IGNORECASE)
_WORD = re.compile(r"(?<![A-Za-z0-9_-])(?:\$?[0-9A-Fa-f]{40}(?:[~=]\w+)?|[A-Za-z0-9+/_-]{43,}=*)(?![A-Za-z0-9_-])")
_IPV4 = re.compile(r"(?<![0-9])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]+)?(?::[0-9]+)?")
_NO_HOST = "0."
"""How an IPv4 address begins that is no host's (0.0.0.0/8, RFC 1122 §3.2.1.3), and how tor's versions do: 0.4.8.12."""

_IPV6 = re.compile(r"\[?(?<![0-9A-Za-z])[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:\](?::[0-9]+)?)?(?:/[0-9]+)?")
_TIME = re.compile(r"\[?\d{2}:\d{2}:\d{2}(?:\.\d+)?\]?:?")


def redact(text: str) -> str:
    """*text* in one printable line, with `[address]` and `[removed]` in place of what names a host or a relay.

    Secrets are removed, and what may be a part of an address that was cut off. Times and versions of tor stay.
    """
    line = "".join(character if character.isprintable() else " " for character in text)
    line = _SECRET.sub(lambda found: f"{found[1]}=[removed]", line)
    line = _WORD.sub("[removed]", line)
    line = _IPV4.sub(lambda found: found[0] if found.start() and found[0].startswith(_NO_HOST) else "[address]", line)
    return _IPV6.sub(lambda found: found[0] if _TIME.fullmatch(found[0]) else "[address]", line)
