"""Bridge lines: what a client must know to knock (protocol.md §4). Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar

from torknock.protocol import line_values
from torknock.protocol.token import RATCHETED, first_epoch, forward, ratchet, tokens
from torknock.protocol.word import Word

DEFAULT_N = 8
"""Tokens per epoch of a line that does not say (protocol.md §2.1)."""

_MOST_ARGUMENTS = 510
"""Octets of arguments that tor passes over SOCKS5 (protocol.md §4)."""

_KNOWN = ("key", "epoch", "pin", "n", "sni", "scheme", "channel", "shape", "integrity", "path")
_KEY = 64
"""Octets of `key=` where an `epoch=` stands beside it: a link and a day's key."""
_EPOCH = re.compile(r"0|[1-9][0-9]{0,11}")
_PATH = re.compile(r"[A-Za-z0-9_-]{22}")
_KNOCK_KEY = re.compile(r"[A-Za-z0-9_-]{2,86}")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{40}")
_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+))(?::(?P<port>[1-9][0-9]{0,4}))?")


class Scheme(Word):
    """What the ISN of a SYN is that opens the bridge (protocol.md §2, knock.md)."""

    TOKEN = "token"  # noqa: S105  a word of bridge lines
    """A one-time token."""
    KNOCK = "knock"
    """TCP Stealth."""


class Channel(Word):
    """What carries a connection behind the SYN (protocol.md §3)."""

    TLS = "tls"
    RAW = "raw"
    """Nothing but TCP."""
    WEB = "web"
    """A WebSocket of the operator's own web server."""


USUAL = {Scheme.TOKEN: Channel.TLS, Scheme.KNOCK: Channel.RAW}
"""The channel of a line that names none."""


LineError = line_values.LineError


@dataclass(frozen=True, slots=True)
class Line:
    """The pluggable-transport arguments of a bridge line (protocol.md §4)."""

    secret: bytes = field(repr=False)
    """Of scheme `token`: 32 bytes, `key=` alone, or 72, `key=` and `epoch=`; see `torknock.protocol.token`.
    Of scheme `knock`: 1..64 bytes."""
    pin: bytes | None
    """32 bytes, SHA-256 of the SubjectPublicKeyInfo of the bridge, with channel `web` of its site. None with channel
    `web` where a public certificate for `sni` replaces it, and with scheme `knock`."""
    n: int = DEFAULT_N
    """Tokens per epoch, 1..1024."""
    sni: str | None = None
    """The name for SNI and DNS-ID, lower case."""
    scheme: Scheme = Scheme.TOKEN
    channel: Channel = Channel.TLS
    integrity: int = 0
    """Scheme `knock` only: octets of payload that the integrity code covers; 0 is authentication only."""
    shape: bool = False
    """Channel `tls` only: whether the stream is shaped (protocol.md §3.5)."""
    path: str = ""
    """Channel `web` only: the path of the site that leads to the bridge, without its slash."""

    @property
    def bridge_name(self) -> bytes:
        """What names the bridge in derivations: the pin, or 32 bytes out of `sni` without one (protocol.md §2.1)."""
        if self.pin is not None:
            return self.pin
        return hashlib.sha256(b"torknock/1 sni\0" + (self.sni or "").encode("ascii")).digest()

    @property
    def ratchets(self) -> bool:
        """Whether it is a line of scheme `token` and of version 2."""
        return self.scheme is Scheme.TOKEN and len(self.secret) == RATCHETED

    @property
    def first_epoch(self) -> int:
        """The epoch that a line of scheme `token` begins with; nothing can be derived of earlier ones."""
        return first_epoch(self.secret)

    def forward(self, epoch: int) -> Line:
        """What a line of scheme `token` has become in *epoch*; see `torknock.protocol.token.forward`."""
        return replace(self, secret=forward(self.secret, epoch))

    def tokens(self, epoch: int) -> tuple[int, ...]:
        """The ISNs with which a line of scheme `token` opens the bridge in *epoch*."""
        return tokens(self.secret, self.bridge_name, epoch, self.n)


@dataclass(frozen=True, slots=True)
class BridgeLine:
    """A line of torrc that names a bridge (tor's manual, `Bridge`)."""

    transport: ClassVar[str] = "torknock"
    address: IPv4Address | IPv6Address
    port: int
    fingerprint: str | None
    """40 hexadecimal digits in upper case: the bridge's identity, which tor checks if it is given."""
    line: Line


def parse_arguments(pairs: Iterable[tuple[str, str]]) -> Line:
    """The line that the arguments *pairs* describe, in any order (protocol.md §4). Raises `LineError`."""
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _KNOWN:
            known = ", ".join(_KNOWN)
            raise LineError(f"the bridge line has an argument {line_values.printable(name)} that is none of {known}")
        if name in given:
            raise LineError(f"the bridge line has the argument {name} twice", "leave one")
        given[name] = value
    if "key" not in given:
        raise LineError("the bridge line lacks the argument key", "copy the whole line")
    scheme = line_values.one_of(given, "scheme", Scheme)
    if scheme is Scheme.KNOCK:
        return _knock_line(given)
    if "integrity" in given:
        raise LineError("the argument integrity belongs to scheme=knock alone", "leave it out")
    channel = line_values.one_of(given, "channel", Channel)
    if "pin" not in given and channel is not Channel.WEB:
        raise LineError("the bridge line lacks the argument pin", "copy the whole line")
    if "shape" in given and (given["shape"] != "1" or channel is not Channel.TLS):
        raise LineError("the argument shape is 1, and belongs to channel=tls alone", "leave it out")
    return Line(
        secret=_secret(given),
        pin=line_values.octets_of(given, "pin") if "pin" in given else None,
        n=line_values.number_of(given["n"]) if "n" in given else DEFAULT_N,
        sni=line_values.host_of(given["sni"]) if "sni" in given else None,
        scheme=scheme,
        channel=channel,
        shape="shape" in given,
        path=_path(given, channel),
    )


def _path(given: dict[str, str], channel: Channel) -> str:
    """The path of a line of channel `web`, which needs a name too; "" of any other."""
    if channel is not Channel.WEB:
        if "path" in given:
            raise LineError("the argument path belongs to channel=web alone", "leave it out")
        return ""
    for name in ("path", "sni"):
        if name not in given:
            raise LineError(f"the bridge line lacks the argument {name}", "copy the whole line")
    if not _PATH.fullmatch(given["path"]):
        raise LineError("the argument path is not 22 characters of base64url", "copy the whole line")
    return given["path"]


def _knock_line(given: dict[str, str]) -> Line:
    """A line of scheme `knock`: its secret is of any length up to 64, and its channel is `raw` (knock.md)."""
    for name in ("epoch", "pin", "n", "sni", "shape", "path"):
        if name in given:
            raise LineError(f"the argument {name} belongs to scheme=token alone", "leave it out")
    if given.get("channel", Channel.RAW) != Channel.RAW:
        raise LineError("the argument channel is raw with scheme=knock", "leave it out")
    text = given["key"]
    whole = _KNOCK_KEY.fullmatch(text) is not None and len(text) % 4 != 1  # no octets are written so
    secret = urlsafe_b64decode(text + "=" * (-len(text) % 4)) if whole else b""
    if not 1 <= len(secret) <= 64 or not hmac.compare_digest(line_values.base64_of(secret), text):
        raise LineError("the argument key is not base64url of 1 to 64 octets", "copy the whole line")
    integrity = given.get("integrity", "")
    if "integrity" in given and not (line_values.NUMBER.fullmatch(integrity) and int(integrity) <= 65535):
        raise LineError("the argument integrity is not a number from 1 to 65535")
    return Line(secret, None, scheme=Scheme.KNOCK, channel=Channel.RAW, integrity=int(integrity or 0))


def arguments(line: Line) -> tuple[tuple[str, str], ...]:
    """The arguments of *line*, in the order of protocol.md §4; what has its default is left out."""
    written = (
        ("key", line_values.base64_of(line.secret[:_KEY])),
        ("epoch", str(line.first_epoch) if line.ratchets else ""),
        ("pin", line_values.base64_of(line.pin) if line.pin is not None else ""),
        ("n", str(line.n) if line.n != DEFAULT_N else ""),
        ("sni", line.sni or ""),
        ("scheme", line.scheme if line.scheme is not Scheme.TOKEN else ""),
        ("channel", line.channel if line.channel is not USUAL[line.scheme] else ""),
        ("shape", "1" if line.shape else ""),
        ("integrity", str(line.integrity) if line.integrity else ""),
        ("path", line.path),
    )
    return tuple((name, value) for name, value in written if value)


def parse_bridge_line(text: str) -> BridgeLine:
    """The bridge line that *text* is, with or without `Bridge` before it, as tor reads it. Raises `LineError`."""
    words = text.split()
    if words and words[0].lower() == "bridge":
        del words[0]
    if len(text.strip().splitlines()) > 1:
        raise LineError("this is more than one line", "give one bridge line at a time")
    if len(words) < 2 or words[0] != BridgeLine.transport:
        raise LineError("this is no bridge line of torknock: Bridge torknock ADDRESS:PORT FINGERPRINT key=... pin=...")
    address, port = parse_address(words[1])
    fingerprint = None
    given = words[2:]
    if given and "=" not in given[0]:
        fingerprint = parse_fingerprint(given.pop(0))
    if len(";".join(given).encode("utf-8", "surrogatepass")) > _MOST_ARGUMENTS:
        raise LineError(f"the bridge line has more than {_MOST_ARGUMENTS} octets of arguments, which tor refuses")
    return BridgeLine(address, port, fingerprint, parse_arguments([_pair(word) for word in given]))


def write_bridge_line(bridge_line: BridgeLine) -> str:
    """The line for torrc, without a line end (protocol.md §4)."""
    words = ["Bridge", bridge_line.transport, write_address(bridge_line.address, bridge_line.port)]
    if bridge_line.fingerprint is not None:
        words.append(bridge_line.fingerprint)
    words += (f"{name}={value}" for name, value in arguments(bridge_line.line))
    return " ".join(words)


def parse_address(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """The address and port that *text* is: `192.0.2.7:443`, `[2001:db8::7]:443`; 443 where no port is named.

    Raises `LineError`, for a host name too: tor takes none.
    """
    found = _ADDRESS.fullmatch(text)
    try:
        if found is None or (port := int(found["port"] or 443)) > 65535:
            raise ValueError
        return IPv6Address(found["ipv6"]) if found["ipv6"] else IPv4Address(found["ipv4"]), port
    except ValueError:
        expected = "192.0.2.7:443 or [2001:db8::7]:443, with a port of 1 to 65535"
        raise LineError(f"the bridge's address is not of the form {expected}") from None


def write_address(address: IPv4Address | IPv6Address, port: int) -> str:
    """What `parse_address` reads."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_fingerprint(text: str) -> str:
    """The fingerprint that *text* is, in upper case. Raises `LineError`."""
    if not _FINGERPRINT.fullmatch(text):
        raise LineError("the bridge's fingerprint is not 40 hexadecimal digits")
    return text.upper()


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise LineError("the bridge line has a word after its address that is no argument of the form name=value")
    return name, value


def _secret(given: dict[str, str]) -> bytes:
    if "epoch" not in given:
        return line_values.octets_of(given, "key")
    if not _EPOCH.fullmatch(given["epoch"]):
        raise LineError("the argument epoch is not a number", "copy the whole line")
    key = line_values.octets_of(given, "key", _KEY)
    return ratchet(key[:32], key[32:], int(given["epoch"]))
