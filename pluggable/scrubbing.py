"""Removes IP addresses from what goes into tor's log. Pure.

`torknock/redact.py` has the same task where this library may not be imported; one suite of tests holds both to it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, ip_address

SCRUBBED = "[scrubbed]"
"""What stands in place of an address, as in tor's own log."""

_IPV4 = re.compile(r"(?<![0-9])((?:[0-9]{1,3}\.){3}[0-9]{1,3})((?:\.[0-9]{1,5})*)(?:/[0-9]{1,2})?(?::[0-9]{1,5})?")
_IPV6 = re.compile(r"(\[?)([0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*)((?:%\w+)?(?:\](?::[0-9]{1,5})?|/[0-9]{1,3})?)")
_COLONS_OF_A_WHOLE_ADDRESS = 6
"""At least so many are in an address without `::`; the fewest where it ends like IPv4. A MAC address has 5."""

_NO_HOST = IPv4Network("0.0.0.0/8")
"""Addresses of no host (RFC 1122 §3.2.1.3). A version of tor looks like one: 0.4.8.12."""


def scrubbed(text: str) -> str:
    """*text* with `[scrubbed]` for every IP address and its port, but loopback's and those of no host.

    Times, file positions and tor's versions stay.
    """
    return _IPV4.sub(_scrub_ipv4, _IPV6.sub(_scrub_ipv6, text))


def _scrub_ipv4(found: re.Match[str]) -> str:
    return found[0] if _is_harmless(found[1]) and not found[2] else SCRUBBED


def _scrub_ipv6(found: re.Match[str]) -> str:
    run = found[2]
    if "::" not in run and run.count(":") < _COLONS_OF_A_WHOLE_ADDRESS:
        return found[0]  # a time, for instance
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if before.isalpha() and after.isalpha() and not any(map(str.isdigit, run)):
        return found[0]  # a name of C++, such as std::string
    if not run.strip(".:") or _is_harmless(run.lstrip(".").rstrip(".:")):
        return found[0]
    opened, closed = found[1], found[3]
    return (opened if "]" not in closed else "") + SCRUBBED + run[len(run.rstrip(".")) :]


def _is_harmless(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_unspecified or address in _NO_HOST
