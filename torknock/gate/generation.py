"""The generation of this network namespace's nftables: a number that every change to them raises, whoever makes it.

Asking for it costs microseconds, while `nft list` reads every token back from the kernel.
"""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NLM_F_REQUEST = 1  # linux/netlink.h
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nfnetlink.h
_NEWGEN, _GETGEN = _SUBSYSTEM << 8 | 15, _SUBSYSTEM << 8 | 16  # linux/netfilter/nf_tables.h
_NFTA_GEN_ID = 1  # linux/netfilter/nf_tables.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ERROR = 2  # NLMSG_ERROR, linux/netlink.h


def ruleset_generation() -> int:
    """The generation now. Raises `OSError` where the kernel has no nftables or this process may not ask."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(1.0)
        netlink.send(_HEADER.pack(_HEADER.size + 4, _GETGEN, _NLM_F_REQUEST, 0, 0) + bytes(4))  # and struct nfgenmsg
        reply = netlink.recv(4096)
    _length, kind, _flags, _sequence, _port = _HEADER.unpack_from(reply)
    if kind == _ERROR:
        code = -struct.unpack_from("=i", reply, _HEADER.size)[0]
        raise OSError(code, os.strerror(code))
    at = _HEADER.size + 4
    while kind == _NEWGEN and at + 4 <= len(reply):
        length, attribute = struct.unpack_from("=HH", reply, at)
        if attribute == _NFTA_GEN_ID and length >= 8:
            return int(struct.unpack_from("!I", reply, at + 4)[0])
        at += max(length + 3 & ~3, 4)
    raise OSError("the kernel's answer holds no nftables generation")
