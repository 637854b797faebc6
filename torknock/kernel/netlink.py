"""What nftables' own netlink interface tells in microseconds (linux/netfilter/nf_tables.h).

`nft` reads every token back from the kernel whatever it is asked, which takes a second for 100,000 of them.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NLM_F_REQUEST = 1  # linux/netlink.h
_NLM_F_DUMP = 0x300  # linux/netlink.h
_NLM_F_DUMP_INTR = 0x10  # linux/netlink.h
_ERROR, _DONE = 2, 3  # NLMSG_*, linux/netlink.h
_DUMP_AT_ONCE = 1 << 16
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nfnetlink.h
_NEWGEN, _GETGEN = _SUBSYSTEM << 8 | 15, _SUBSYSTEM << 8 | 16
_NEWOBJ, _GETOBJ = _SUBSYSTEM << 8 | 18, _SUBSYSTEM << 8 | 19
_GETSETELEM = _SUBSYSTEM << 8 | 13
_GEN_ID = 1  # NFTA_GEN_*
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_ELEMENT_KEY = 1  # NFTA_SET_ELEM_*
_DATA_VALUE = 1  # NFTA_DATA_*
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


def set_elements(table: str, name: str) -> set[int]:
    """The elements of the set *name* of the inet *table*, whose keys are numbers of 4 octets.

    Raises `OSError`, which is an `InterruptedError` if nftables is changed meanwhile. 100,000 take about half a second.
    """
    names = (_LIST_TABLE, table), (_LIST_SET, name)
    wanted = b"".join(_attribute(kind, text.encode("ascii") + b"\0") for kind, text in names)
    found: set[int] = set()
    for message in _dumped(_GETSETELEM, _INET, wanted):
        for element in _each(_attributes(message).get(_LIST_ELEMENTS, b"")):
            key = _attributes(_attributes(element).get(_ELEMENT_KEY, b""))
            found.add(int.from_bytes(key.get(_DATA_VALUE, b"")))
    return found


def _dumped(question: int, family: int, attributes: bytes) -> Iterator[bytes]:
    """The attributes of each message that the kernel answers *question* with."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(1.0)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        netlink.send(_HEADER.pack(_HEADER.size + len(attributes), question, flags, 0, 0, family, 0, 0) + attributes)
        while True:
            octets, at = netlink.recv(_DUMP_AT_ONCE), 0
            while at < len(octets):
                length, kind, flags = struct.unpack_from("=IHH", octets, at)
                code = -struct.unpack_from("=i", octets, at + 16)[0] if kind in (_ERROR, _DONE) else 0
                if code:
                    raise OSError(code, os.strerror(code))
                if flags & _NLM_F_DUMP_INTR:
                    raise InterruptedError("nftables was changed while it was read")
                if kind == _DONE:
                    return
                yield octets[at + _HEADER.size : at + length]
                at += max(length + 3 & ~3, 16)


def _each(octets: bytes) -> Iterator[bytes]:
    """The values of the attributes in *octets*, one after the other."""
    at = 0
    while at + 4 <= len(octets):
        length = struct.unpack_from("=H", octets, at)[0]
        yield octets[at + 4 : at + length]
        at += max(length + 3 & ~3, 4)


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
