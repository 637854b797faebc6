"""Removes from a text what no stranger may read: addresses, fingerprints, secrets. Pure.

`pluggable/scrubbing.py` removes addresses from what a transport logs; what runs with CAP_NET_ADMIN may not import it.
One suite of tests holds both to the task.
"""

from __future__ import annotations

import re

SCRUBBED = "[scrubbed]"
"""What stands in place of an address, as in tor's own log."""

_SECRET = re.compile(r"\b(key|pin|sni|secret|password|cert|url)=\S+", re.IGNORECASE)
_WORD = re.compile(r"(?<![A-Za-z0-9_-])(?:\$?[0-9A-Fa-f]{40}(?:[~=]\w+)?|[A-Za-z0-9+/_-]{43,}=*)(?![A-Za-z0-9_-])")
_IPV4 = re.compile(r"(?<![0-9])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:\.[0-9]{1,5})*(?:/[0-9]+)?(?::[0-9]+)?")
_NO_HOST = "0."
"""How an IPv4 address begins that is no host's (0.0.0.0/8, RFC 1122 §3.2.1.3), and how tor's versions do: 0.4.8.12."""

_IPV6 = re.compile(r"\[?([0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)(?:%\w+)?(?:\](?::[0-9]+)?)?(?:/[0-9]+)?")
_TIME = re.compile(r"\[?\d{2}:\d{2}:\d{2}(?:\.\d+)?\]?[:.]?")
_COLONS_OF_A_WHOLE_ADDRESS = 6
"""At least so many are in an address without `::`."""


def redact(text: str) -> str:
    """*text* in one printable line, with `[scrubbed]` and `[removed]` in place of what names a host or a relay.

    Secrets are removed, and what may be a part of an address that was cut off. Times and versions of tor stay.
    """
    line = "".join(character if character.isprintable() else " " for character in text)
    line = _SECRET.sub(lambda found: f"{found[1]}=[removed]", line)
    line = _WORD.sub("[removed]", line)
    line = _IPV6.sub(_scrub_ipv6, line)
    return _IPV4.sub(lambda found: found[0] if found.start() and found[0].startswith(_NO_HOST) else SCRUBBED, line)


def _scrub_ipv6(found: re.Match[str]) -> str:
    run = found[1]
    if _TIME.fullmatch(found[0]):
        return found[0]
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if before.isalnum():
        is_whole = "::" in run or run.count(":") >= _COLONS_OF_A_WHOLE_ADDRESS
        is_a_name = after.isalpha() and not any(map(str.isdigit, run))  # of C++, such as std::string
        return SCRUBBED if is_whole and not is_a_name else found[0]
    return SCRUBBED
