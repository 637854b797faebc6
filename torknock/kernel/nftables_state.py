"""What nftables tells over netlink in microseconds (linux/netfilter/nf_tables.h).

`nft` reads every token back from the kernel whatever it is asked, which takes a second for 100,000 of them.
Everything raises `OSError`.
"""

from __future__ import annotations

import struct
from contextlib import closing

from torknock.kernel.netlink import DUMP, REQUEST, Connect, ask, attribute, attributes, connect, dump, message

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nfnetlink.h
NEWGEN, GETGEN = _SUBSYSTEM << 8 | 15, _SUBSYSTEM << 8 | 16
NEWOBJ, GETOBJ = _SUBSYSTEM << 8 | 18, _SUBSYSTEM << 8 | 19
NEWSETELEM, GETSETELEM = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 13
GEN_ID = 1  # NFTA_GEN_*
LIST_TABLE, LIST_SET, LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
LIST_ELEMENT = 1  # NFTA_LIST_*
ELEMENT_KEY = 1  # NFTA_SET_ELEM_*
DATA_VALUE = 1  # NFTA_DATA_*
OBJ_TABLE, OBJ_NAME, OBJ_TYPE, OBJ_DATA = 1, 2, 3, 4  # NFTA_OBJ_*
COUNTER_PACKETS = 2  # NFTA_COUNTER_*
_COUNTER = 1  # NFT_OBJECT_COUNTER
_INET = 1  # NFPROTO_INET, linux/netfilter.h


def ruleset_generation(connect: Connect = connect) -> int:
    """A number that every change to this network namespace's nftables raises, whichever program makes it.

    Raises `OSError` also where the kernel has no nftables or this process may not ask.
    """
    with closing(connect()) as netlink:
        answer = ask(netlink, message(GETGEN, b""))
    value = dict(attributes(answer.body)).get(GEN_ID, b"") if answer.kind == NEWGEN else b""
    if len(value) < 4:
        raise OSError("the kernel's answer holds no nftables generation")
    return int.from_bytes(value[:4])


def counted_packets(table: str, counter: str, connect: Connect = connect) -> int:
    """What the named *counter* of the inet *table* has counted. Raises `OSError` also if there is none."""
    wanted = (
        attribute(OBJ_TABLE, _text(table))
        + attribute(OBJ_NAME, _text(counter))
        + attribute(OBJ_TYPE, struct.pack("!I", _COUNTER))
    )
    with closing(connect()) as netlink:
        answer = ask(netlink, message(GETOBJ, wanted, family=_INET))
    told = dict(attributes(answer.body)) if answer.kind == NEWOBJ else {}
    return int.from_bytes(dict(attributes(told.get(OBJ_DATA, b""))).get(COUNTER_PACKETS, b""))


def set_elements(table: str, name: str, connect: Connect = connect) -> set[int]:
    """The elements of the set *name* of the inet *table*, whose keys are numbers of 4 octets.

    The error is an `InterruptedError` if nftables is changed meanwhile. 100,000 elements take about half a second.
    """
    wanted = attribute(LIST_TABLE, _text(table)) + attribute(LIST_SET, _text(name))
    found: set[int] = set()
    with closing(connect()) as netlink:
        for listed in dump(netlink, message(GETSETELEM, wanted, flags=REQUEST | DUMP, family=_INET)):
            for _, element in attributes(dict(attributes(listed)).get(LIST_ELEMENTS, b"")):
                key = dict(attributes(dict(attributes(element)).get(ELEMENT_KEY, b"")))
                found.add(int.from_bytes(key.get(DATA_VALUE, b"")))
    return found


def _text(text: str) -> bytes:
    return text.encode("ascii") + b"\0"
