"""What nftables' own netlink interface tells in microseconds (linux/netfilter/nf_tables.h).

`nft` reads every token back from the kernel whatever it is asked, which takes a second for 100,000 of them.
"""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NLM_F_REQUEST = 1  # linux/netlink.h
_ERROR = 2  # NLMSG_ERROR, linux/netlink.h
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nfnetlink.h
_NEWGEN, _GETGEN = _SUBSYSTEM << 8 | 15, _SUBSYSTEM << 8 | 16
_NEWOBJ, _GETOBJ = _SUBSYSTEM << 8 | 18, _SUBSYSTEM << 8 | 19
_GEN_ID = 1  # NFTA_GEN_*
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4  # NFTA_OBJ_*
_COUNTER = 1  # NFT_OBJECT_COUNTER
_COUNTER_PACKETS = 2  # NFTA_COUNTER_*
_INET = 1  # NFPROTO_INET, linux/netfilter.h
_NESTED = 0x8000  # NLA_F_NESTED, linux/netlink.h
_HEADER = struct.Struct("=IHHIIBBH")  # struct nlmsghdr and struct nfgenmsg


def ruleset_generation() -> int:
    """A number that every change to this network namespace's nftables raises, whoever makes it.

    Raises `OSError` where the kernel has no nftables or this process may not ask.
    """
    value = _asked(_GETGEN, _NEWGEN, 0, b"").get(_GEN_ID, b"")
    if len(value) < 4:
        raise OSError("the kernel's answer holds no nftables generation")
    return int.from_bytes(value[:4])


def counted_packets(table: str, counter: str) -> int:
    """What the named *counter* of the inet *table* has counted. Raises `OSError`, also if there is none."""
    wanted = (
        _attribute(_OBJ_TABLE, table.encode("ascii") + b"\0")
        + _attribute(_OBJ_NAME, counter.encode("ascii") + b"\0")
        + _attribute(_OBJ_TYPE, struct.pack("!I", _COUNTER))
    )
    told = _asked(_GETOBJ, _NEWOBJ, _INET, wanted)
    return int.from_bytes(_attributes(told.get(_OBJ_DATA, b"")).get(_COUNTER_PACKETS, b""))


def _asked(question: int, answer: int, family: int, attributes: bytes) -> dict[int, bytes]:
    """The attributes of the kernel's *answer* to *question*."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(1.0)
        length = _HEADER.size + len(attributes)
        netlink.send(_HEADER.pack(length, question, _NLM_F_REQUEST, 0, 0, family, 0, 0) + attributes)
        reply = netlink.recv(4096)
    kind = struct.unpack_from("=IH", reply)[1]
    if kind == _ERROR:
        code = -struct.unpack_from("=i", reply, 16)[0]
        raise OSError(code, os.strerror(code))
    return _attributes(reply[_HEADER.size :]) if kind == answer else {}


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(octets: bytes) -> dict[int, bytes]:
    """What is in *octets*, by kind (struct nlattr)."""
    found, at = {}, 0
    while at + 4 <= len(octets):
        length, kind = struct.unpack_from("=HH", octets, at)
        found[kind & ~_NESTED] = octets[at + 4 : at + length]
        at += max(length + 3 & ~3, 4)
    return found
