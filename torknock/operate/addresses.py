"""At which addresses clients can reach a bridge, and which address this host has."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

_THIS_NETWORK = IPv4Network("0.0.0.0/8")  # RFC 6890
_GLOBAL_UNICAST, _UNIQUE_LOCAL = IPv6Network("2000::/3"), IPv6Network("fc00::/7")  # RFC 4291, RFC 4193
_FAR = {4: ("192.0.2.1", 9), 6: ("2001:db8::1", 9)}
"""Addresses that no host has (RFC 5737, RFC 3849): the way to them is the default route."""
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def refusal(address: Address) -> str:
    """Why no client can connect to *address*, as a clause; "" if one may. Pure."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"is an IPv4 address written as IPv6; write {address.ipv4_mapped}"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "names an interface of this host, which is no part of a bridge line"
    if address.is_unspecified:
        return "stands for every address of a host"
    if address.is_loopback:
        return "is a loopback address, which only this host itself reaches"
    if address.is_link_local:
        return "is a link-local address, which is not routed"
    if address.is_multicast:
        return "is a multicast address, which TCP cannot connect to"
    if address == IPv4Address("255.255.255.255"):
        return "is the broadcast address, which TCP cannot connect to"
    if isinstance(address, IPv4Address):
        reserved = address.is_reserved or address in _THIS_NETWORK
    else:
        reserved = address not in _GLOBAL_UNICAST and address not in _UNIQUE_LOCAL
    return "is in a reserved range, which is not routed" if reserved else ""


def warning(address: Address) -> str:
    """What to consider about *address* before it is handed out; "" if it is a public one. Pure."""
    if address.is_global:
        return ""
    return (
        f"{address} is not a public address: only clients in its own network reach it. Behind address translation, "
        "name the public address with --address"
    )


def is_broadcast(address: Address) -> bool:
    """Whether *address* is the broadcast address of a network that this host is in. Nothing is sent."""
    with socket.socket(_FAMILY[4], socket.SOCK_DGRAM) as probe:
        try:
            if address.version == 4:
                probe.connect((str(address), 9))
        except OSError as error:
            return error.errno == errno.EACCES  # ip(7): a broadcast address, without SO_BROADCAST
    return False


def own_address(version: int) -> Address | None:
    """The host's own address towards the default route of IP *version* 4 or 6; None if it has none. Nothing is sent.

    IPv6: a temporary address (RFC 8981) may be chosen, which is why IPv4 comes first where there is a choice.
    """
    try:
        with socket.socket(_FAMILY[version], socket.SOCK_DGRAM) as probe:
            probe.connect(_FAR[version])
            found: Address = (IPv4Address if version == 4 else IPv6Address)(probe.getsockname()[0].partition("%")[0])
            return found
    except OSError:  # no route, or no such protocol in this kernel
        return None
