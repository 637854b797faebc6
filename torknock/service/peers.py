"""The user at the other end of a Unix socket, and whether that user may send requests."""

from __future__ import annotations

import grp
import pwd
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from twisted.logger import Logger

_log = Logger()

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_GROUPS = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says."""

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Guests:
    """Who may ask: root, some users, and who is in some groups."""

    uids: frozenset[int]
    gids: frozenset[int]

    @classmethod
    def named(cls, users: Collection[str], groups: Collection[str]) -> Guests:
        """Those of these names. A name that this host does not know is ignored, and the log says so."""
        uids, gids = {0}, set()
        for user in users:
            try:
                uids.add(pwd.getpwnam(user).pw_uid)
            except KeyError:
                _log.warn("unknown user {user} in the access list; ignored", user=user)
        for group in groups:
            try:
                gids.add(grp.getgrnam(group).gr_gid)
            except KeyError:
                _log.warn("unknown group {group} in the access list; ignored", group=group)
        return cls(frozenset(uids), frozenset(gids))

    def may_ask(self, peer: Peer) -> bool:
        """Whether *peer* is one of them."""
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.groups)


def peer(connected: socket.socket) -> Peer:
    """The user that connected, and its groups at that time. Raises `OSError`, also if they are more than 256."""
    _pid, uid, gid = struct.unpack("=iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    raw = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS * 4)
    return Peer(uid, frozenset({gid, *struct.unpack(f"={len(raw) // 4}I", raw)}))
