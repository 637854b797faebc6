"""The access list of `torknock gate`: which doors root lets be guarded, how, and by which user.

A root-owned file of TOML, a table for each door:

    [[door]]
    address = "0.0.0.0"
    port = 443
    posture = "closed"
    user = "debian-tor"

The address "0.0.0.0" and the address "::" both stand for every address of this host. Nothing that is not listed may be
guarded: who guards a port takes its connections, or silences it.
"""

from __future__ import annotations

import os
import pwd
import stat
import tomllib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from torknock.interfaces import GateFailed
from torknock.kernel.files import ROOT, directory_of_others
from torknock.protocol.door import Door, Posture
from torknock.service.peers import Peer
from torknock.service.posture_table import load_posture

ACCESS = Path("/etc/torknock/gate.toml")
"""Where it is."""

EVERYWHERE = "0.0.0.0"  # noqa: S104  a name, not a socket
"""Every address of this host, IPv4 and IPv6, as an `Entry` has it."""

DOORS_AT_MOST, DOORS_A_USER = 64, 16
"""Doors that a list may hold, and of one user: each is a table or two of nftables."""

_OCTETS_AT_MOST = 65_536
_MEND = "as root: torknock setup bridge"
_KEYS = {"address": str, "port": int, "posture": str, "user": str}


class AccessDenied(GateFailed):
    """The access list cannot be used, or does not hold what was asked for."""


class NoAccessList(AccessDenied):
    """There is none: root lets nothing be guarded."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A door that may be guarded."""

    address: str
    """`canonical`."""
    port: int
    posture: Posture
    user: str

    @property
    def door(self) -> Door:
        """What may be guarded."""
        return Door(self.address, self.port, self.posture)

    def __str__(self) -> str:
        """As it stands in the file."""
        return (
            f'[[door]]\naddress = "{self.address}"\nport = {self.port}\nposture = "{self.posture.value}"\n'
            f'user = "{_escaped(self.user)}"\n'
        )


def canonical(address: str) -> str:
    """*address* as an `Entry` has it. Raises `ValueError` if it is none."""
    found = ip_address(address)
    if "%" in address:
        raise ValueError(address)  # an address to guard has no interface
    return EVERYWHERE if found.is_unspecified else str(found)


def parse(text: str, name: str = "the access list") -> tuple[Entry, ...]:
    """The entries of the list *text*, which errors call *name*. Raises `AccessDenied` if anything about it is wrong."""
    try:
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and of lists that no list of doors has
        raise AccessDenied(f"{name} is no TOML: {error}", f"{_MEND}, or mend it") from error
    listed = said.get("door", [])
    if set(said) - {"door"} or not isinstance(listed, list):
        raise AccessDenied(f"{name} has something other than [[door]] tables", "take it out")
    if len(listed) > DOORS_AT_MOST:
        raise AccessDenied(f"{name} has {len(listed)} doors, and may have {DOORS_AT_MOST}", "take some out")
    entries = tuple(_entry(each, f"door {number} of {name}") for number, each in enumerate(listed, 1))
    for user, count in Counter(each.user for each in entries).items():
        if count > DOORS_A_USER:
            raise AccessDenied(f"{name} has {count} doors of {user}, and may have {DOORS_A_USER}", "take some out")
    for number, one in enumerate(entries):
        if any(one.port == other.port and _overlap(one, other) for other in entries[:number]):
            raise AccessDenied(f"{name} has port {one.port} twice at one address", "take one of them out")
    return entries


def read(path: Path, trusted: Collection[int] = ROOT) -> tuple[Entry, ...]:
    """The entries of the list at *path*. Raises `AccessDenied` unless it is a regular file that root alone can write.

    Every directory on the way must be root's alone, too: another user could replace the file there. The list is read
    from the file that was judged; one that is not there has a message of its own, which an installation of an earlier
    version meets. *trusted* are the uids that stand for root.
    """
    try:
        check_directories(path, trusted)
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NoAccessList(f"nothing may be guarded, for there is no {path}", _MEND) from error
    except PermissionError as error:
        raise AccessDenied(
            f"{path} is not for this user", f"as root: chgrp torknock {path}; chmod 0640 {path}"
        ) from error
    except OSError as error:
        raise AccessDenied(f"{path} cannot be read: {error.strerror}", f"remove it, and {_MEND}") from error
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise AccessDenied(f"{path} is no regular file", f"remove it, and {_MEND}")
        if found.st_uid not in trusted or found.st_mode & 0o022:
            raise AccessDenied(
                f"{path} can be written by others than root", f"as root: chown root {path}; chmod go-w {path}"
            )
        octets = file.read(_OCTETS_AT_MOST + 1)
    if len(octets) > _OCTETS_AT_MOST:
        raise AccessDenied(f"{path} has more than {_OCTETS_AT_MOST} octets", "look what is in it")
    try:
        return parse(octets.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise AccessDenied(f"{path} is no UTF-8 text", f"remove it, and {_MEND}") from error


def check_directories(path: Path, trusted: Collection[int] = ROOT) -> None:
    """Raise `AccessDenied` if users not *trusted* could replace the list at *path*; else `OSError`, as `lstat`."""
    if (place := directory_of_others(path, trusted)) is not None:
        raise AccessDenied(
            f"{place} can be written by others than root, who could replace {path}",
            f"as root: chown -h root {place}; chmod go-w {place}",
        )


class AccessList:
    """The list at *path*, read again for each question, so that a change holds at once; *trusted* as in `read`."""

    def __init__(self, path: Path, trusted: Collection[int] = ROOT) -> None:
        self._path, self._trusted = path, trusted

    def entries(self) -> tuple[Entry, ...]:
        """See `read`."""
        return read(self._path, self._trusted)

    def may_ask(self, peer: Peer) -> bool:
        """Whether *peer* is root, or a listed user; true of all while the list cannot be read, to be told so."""
        try:
            return peer.uid == 0 or any(_is(each.user, peer.uid) for each in self.entries())
        except AccessDenied:
            return True

    def check(self, door: Door, uid: int) -> None:
        """Raise `AccessDenied`, with what root must do, unless the user *uid* may guard *door*."""
        asked = replace(door, host=canonical(door.host))
        if any(each.door == asked and _is(each.user, uid) for each in self.entries()):
            return
        raise AccessDenied(
            f"{_name(uid)} may not guard port {door.port} of {asked.host} as {door.posture.value}, for {self._path} "
            "does not list it",
            f"{_MEND}, with the port and posture that torrc has",
        )


def silence(entries: Sequence[Entry]) -> str:
    """The transaction after which every door of *entries* that is filtered is silent, guarded or not."""
    return "".join(load_posture(each.door) for each in entries if each.posture is Posture.FILTERED)


def uid_of(name: str) -> int | None:
    """The number of the user *name*; None if this host does not know it."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _is(name: str, uid: int) -> bool:
    return uid_of(name) == uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _entry(said: Any, name: str) -> Entry:
    if not isinstance(said, dict) or set(said) != set(_KEYS):
        raise AccessDenied(f"{name} must have {', '.join(_KEYS)}, and nothing else", "mend it")
    for key, kind in _KEYS.items():
        if type(said[key]) is not kind:
            raise AccessDenied(f"{name}: {key} must be {'a number' if kind is int else 'a text in quotation marks'}")
    try:
        address = canonical(said["address"])
    except ValueError:
        raise AccessDenied(f"{name}: address must be an IP address") from None
    if not 1 <= said["port"] <= 65535:
        raise AccessDenied(f"{name}: port must be from 1 to 65535")
    if (posture := Posture.read(said["posture"])) is None:
        raise AccessDenied(f"{name}: posture must be {Posture.listed()}")
    if not said["user"].isprintable():
        raise AccessDenied(f"{name}: user must be the name of a user")
    return Entry(address, said["port"], posture, said["user"])


def _escaped(text: str) -> str:
    """*text*, which is printable, as it stands in quotation marks."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _overlap(one: Entry, other: Entry) -> bool:
    return one.address == other.address or EVERYWHERE in (one.address, other.address)
