"""What removes IP addresses from a text is held to this: addresses as logs spell them, and what only looks like one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import strategies as st

STAYS = (
    "at 19:00:54", "[19:00:54] began", "19:00:54.000: done", "(19:00:54)",
    "Nov 23 19:00:54.123 [notice] Tor 0.4.8.12 runs", "2026-11-25T19:00:54.123456+00:00 host",
    "2026-11-25 19:00:54,123 x", "tor 0.4.9.1-alpha", "Tor 0.4.9.11.",
    "version 3.11", "a: b: c", "std::string", "12:34", "OpenSSL 3.0.19, Zlib 1.2.13",
)  # fmt: skip
"""Times, dates and versions: what a log is read for."""

GLUED = ("x2001:db8::7, to", "x192.0.2.7, to", "to2001:db8:0:1:2:3:4:5:443", "192.0.2.7.443", "x::f, to",
         "x1:2:3:4:5:6:192.0.2.7, to", "0.1.192.0.2.7")
"""Addresses without a space before them, or with a port as netstat(8) of BSD writes it."""

_FORMS_4 = ("{}", "{}:443", "{}/24", "::ffff:{}", "[::ffff:{}]:443", "64:ff9b::{}")
_FORMS_6 = ("{}", "[{}]", "[{}]:443", "{}/64", "[{}%eth0]:443", "{}%eth0")
_AROUND = ("{}", "to {} now", "to {}.", "'{}'", "host={}, port", "({})", "<{}>", "from {}: refused", "a {};", '"{}"')


def _written(address: IPv6Address) -> st.SearchStrategy[str]:
    """*address* in any spelling of RFC 4291 §2.2."""
    groups = address.exploded.split(":")
    short = [group.lstrip("0") or "0" for group in groups]
    quad = str(IPv4Address(address.packed[12:]))
    spellings = [str(address), address.exploded, ":".join(short), ":".join([*short[:6], quad])]
    return st.sampled_from([*spellings, *(each.upper() for each in spellings)])


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """A text with an address in it, of a host and not of loopback."""
    address = draw(st.ip_addresses().filter(_is_a_hosts))
    form = draw(st.sampled_from(_FORMS_4 if address.version == 4 else _FORMS_6))
    written = draw(_written(address)) if isinstance(address, IPv6Address) else str(address)
    return draw(st.sampled_from(_AROUND)).format(form.format(written))


def _is_a_hosts(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    hosts = mapped or address
    return not (hosts.is_loopback or hosts.is_unspecified or str(hosts).startswith("0."))


def addresses_in(text: str) -> list[str]:
    """The words of *text* that are IP addresses, however they are enclosed."""
    for mark in "()[]<>'\",;=/":
        text = text.replace(mark, " ")
    found = []
    for word in (word.partition("%")[0] for word in text.split()):
        whole = {word, word.rstrip("."), word.rstrip(":")}
        found += [each for each in whole | {each.rpartition(":")[0] for each in whole} if _is_address(each)]
    return found


def _is_address(word: str) -> bool:
    try:
        return _is_a_hosts(ip_address(word))
    except ValueError:
        return False
