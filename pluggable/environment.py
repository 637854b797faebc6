"""What tor tells a transport at its start: `TOR_PT_*` (pt-spec §3.2), read as a whole or refused. Pure.

An empty variable is an unset one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote

from pluggable.arguments import Arguments, parse_server_options
from pluggable.errors import ArgumentsError, EnvironmentFault, NotManaged, ProxyError, VersionFault

Address = tuple[str, int]
"""An IP literal without brackets, and a port."""

_VERSION, _STATE = "TOR_PT_MANAGED_TRANSPORT_VER", "TOR_PT_STATE_LOCATION"
_CLIENT, _SERVER = "TOR_PT_CLIENT_TRANSPORTS", "TOR_PT_SERVER_TRANSPORTS"
_EXTENDED, _COOKIE = "TOR_PT_EXTENDED_SERVER_PORT", "TOR_PT_AUTH_COOKIE_FILE"


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy through which all that leaves must go (`TOR_PT_PROXY`); *scheme* is socks5, socks4a or http."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What tor tells a client."""

    state_location: Path
    exit_on_stdin_close: bool
    transports: tuple[str, ...]
    outbound_bind_v4: str | None = None
    outbound_bind_v6: str | None = None
    proxy: Proxy | None = None

    def outbound_bind(self, host: str) -> str | None:
        """The address to dial *host* (an IP literal) from; None leaves it to the kernel, as for loopback."""
        return _outbound_bind(host, self.outbound_bind_v4, self.outbound_bind_v6)


@dataclass(frozen=True, slots=True)
class ServerEnvironment:
    """What tor tells a server; at least one of *or_port* and *extended_or_port* is there."""

    state_location: Path
    exit_on_stdin_close: bool
    transports: tuple[str, ...]
    outbound_bind_v4: str | None = None
    outbound_bind_v6: str | None = None
    bind_addresses: Mapping[str, Address] = field(default_factory=dict)
    options: Mapping[str, Arguments] = field(default_factory=dict)
    or_port: Address | None = None
    extended_or_port: Address | None = None
    auth_cookie_file: Path | None = None

    def outbound_bind(self, host: str) -> str | None:
        """The address to dial *host* (an IP literal) from; None leaves it to the kernel, as for loopback."""
        return _outbound_bind(host, self.outbound_bind_v4, self.outbound_bind_v6)


def read_environment(environ: Mapping[str, str]) -> ClientEnvironment | ServerEnvironment:
    """The environment that tor has set in *environ*. Raises `StartError`.

    `ProxyError` is raised only if all else is right: tor reads it after `VERSION`, any other error instead of it.
    """
    asked_client, asked_server = environ.get(_CLIENT, ""), environ.get(_SERVER, "")
    if not (asked_client or asked_server or environ.get(_VERSION)):
        raise NotManaged
    if not (versions := environ.get(_VERSION)):
        raise EnvironmentFault(f"no {_VERSION} environment variable")
    if "1" not in versions.split(","):
        raise VersionFault
    if asked_client and asked_server:
        raise EnvironmentFault(f"{_CLIENT} and {_SERVER} both set")
    if not (asked_client or asked_server):
        raise EnvironmentFault(f"neither {_CLIENT} nor {_SERVER} set")
    common = (
        _absolute(environ, _STATE),
        environ.get("TOR_PT_EXIT_ON_STDIN_CLOSE") == "1",
        tuple(dict.fromkeys((asked_client or asked_server).split(","))),
        _bind_address_v4(environ),
        _bind_address_v6(environ),
    )
    if asked_client:
        url = environ.get("TOR_PT_PROXY")
        return ClientEnvironment(*common, proxy=parse_proxy(url) if url else None)
    return _server(environ, common)


def parse_proxy(url: str) -> Proxy:
    """`scheme://[user[:password]@]ip:port` as tor writes it: not percent-encoded. Raises `ProxyError`.

    No text of an error holds the user's name or password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("socks5", "socks4a", "http"):
        raise ProxyError("TOR_PT_PROXY: the scheme is not socks5, socks4a or http")
    credentials, at, address = rest.rpartition("@")
    user, colon, password = (_decoded(part) for part in credentials.partition(":"))
    try:
        host, port = _address(address)
    except ValueError as error:
        raise ProxyError("TOR_PT_PROXY: not an IP address and a port from 1 to 65535") from error
    if not at:
        return Proxy(scheme, host, port)
    if scheme == "socks4a":
        if colon:
            raise ProxyError("TOR_PT_PROXY: SOCKS4a has no password")
        return Proxy(scheme, host, port, user)
    if not colon:
        raise ProxyError("TOR_PT_PROXY: a user without a password")
    if scheme == "socks5" and not all(1 <= len(_octets(part)) <= 255 for part in (user, password)):
        raise ProxyError("TOR_PT_PROXY: SOCKS5 needs a user and a password of 1 to 255 bytes each")
    return Proxy(scheme, host, port, user, password)


def _server(
    environ: Mapping[str, str], common: tuple[Path, bool, tuple[str, ...], str | None, str | None]
) -> ServerEnvironment:
    transports = common[2]
    given = _bind_addresses(environ.get("TOR_PT_SERVER_BINDADDR", ""))
    try:
        options = parse_server_options(environ.get("TOR_PT_SERVER_TRANSPORT_OPTIONS", ""))
    except ArgumentsError as error:
        raise EnvironmentFault(f"TOR_PT_SERVER_TRANSPORT_OPTIONS: {error}") from error
    or_port, extended = _port(environ, "TOR_PT_ORPORT"), _port(environ, _EXTENDED)
    if extended and not environ.get(_COOKIE):
        raise EnvironmentFault(f"No {_COOKIE} when {_EXTENDED} set")
    if not (or_port or extended):
        raise EnvironmentFault(f"need TOR_PT_ORPORT or {_EXTENDED} environment variable")
    return ServerEnvironment(
        *common,
        bind_addresses={name: given.get(name, ("0.0.0.0", 0)) for name in transports},  # noqa: S104  pt-spec's default
        options={name: items for name, items in options.items() if name in transports},
        or_port=or_port,
        extended_or_port=extended,
        auth_cookie_file=_absolute(environ, _COOKIE) if extended else None,
    )


def _bind_addresses(text: str) -> dict[str, Address]:
    addresses: dict[str, Address] = {}
    for item in text.split(",") if text else ():
        name, dash, address = item.partition("-")
        if not (name and dash):
            raise EnvironmentFault(f"TOR_PT_SERVER_BINDADDR: {item!r} is not name-address:port")
        if name in addresses:
            raise EnvironmentFault(f"TOR_PT_SERVER_BINDADDR: {name!r} comes twice")
        try:
            addresses[name] = _address(address, lowest_port=0)
        except ValueError as error:
            raise EnvironmentFault(f"TOR_PT_SERVER_BINDADDR: {error}") from error
    return addresses


def _absolute(environ: Mapping[str, str], name: str) -> Path:
    if not (text := environ.get(name)):
        raise EnvironmentFault(f"no {name} environment variable")
    if not text.startswith("/"):
        raise EnvironmentFault(f"{name}: {text!r} is not an absolute path")
    return Path(text)


def _port(environ: Mapping[str, str], name: str) -> Address | None:
    if not (text := environ.get(name)):
        return None
    try:
        return _address(text)
    except ValueError as error:
        raise EnvironmentFault(f"{name}: {error}") from error


def _bind_address_v4(environ: Mapping[str, str]) -> str | None:
    name = "TOR_PT_OUTBOUND_BIND_ADDRESS_V4"
    if not (text := environ.get(name)):
        return None
    try:
        return str(IPv4Address(text))
    except ValueError as error:
        raise EnvironmentFault(f"{name}: {text!r} is not an IPv4 address") from error


def _bind_address_v6(environ: Mapping[str, str]) -> str | None:
    name = "TOR_PT_OUTBOUND_BIND_ADDRESS_V6"
    if not (text := environ.get(name)):
        return None
    try:
        return str(_ipv6(text))
    except ValueError as error:
        raise EnvironmentFault(f"{name}: {text!r} is not an IPv6 address in brackets") from error


def _address(text: str, lowest_port: int = 1) -> Address:
    """The address and the port in `ip:port`, IPv6 in brackets. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"{text!r} has no port from {lowest_port} to 65535")
    try:
        return str(_ipv6(host) if host.startswith("[") else IPv4Address(host)), int(port)
    except ValueError as error:
        raise ValueError(f"{text!r} does not begin with an IPv4 address, or an IPv6 address in brackets") from error


def _ipv6(text: str) -> IPv6Address:
    if text[:1] + text[-1:] != "[]" or "%" in text:
        raise ValueError("no brackets")
    return IPv6Address(text[1:-1])


def _outbound_bind(host: str, v4: str | None, v6: str | None) -> str | None:
    address = ip_address(host)
    if address.is_loopback:
        return None
    return v4 if address.version == 4 else v6


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape") if re.search("%[0-9A-Fa-f]{2}", text) else text


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
