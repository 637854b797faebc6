"""What Linux tells about processes and about listening sockets in /proc (proc(5)). Everything raises `OSError`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_CAP_NET_ADMIN = 12  # linux/capability.h
_LISTEN = "0A"  # TCP_LISTEN, net/tcp_states.h
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as /proc/PID/status tells it."""

    pid: int
    parent: int
    uid: int
    groups: frozenset[int]
    may_administer_network: bool
    no_new_privileges: bool
    words: tuple[str, ...]
    """Its command line."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A TCP socket that listens."""

    address: IPv4Address | IPv6Address
    port: int
    inode: int

    @property
    def public(self) -> bool:
        """Whether it can be reached from another host."""
        return not self.address.is_loopback


def process(pid: int) -> Process:
    """The process *pid*."""
    lines = (_PROC / str(pid) / "status").read_text("ascii", "replace").split("\n")  # any user names a process
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    command = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    groups = {int(group) for group in status.get("Groups", "").split()} | {int(status["Gid"].split()[1])}
    return Process(
        pid=pid,
        parent=int(status["PPid"]),
        uid=int(status["Uid"].split()[1]),
        groups=frozenset(groups),
        may_administer_network=bool(int(status["CapEff"], 16) >> _CAP_NET_ADMIN & 1),
        no_new_privileges=status.get("NoNewPrivs") == "1",
        words=tuple(os.fsdecode(word) for word in command if word),
    )


def transport_of(tor: int, verb: str) -> Process | None:
    """tor's child that is torknock's transport, `torknock VERB`; None if it does not run."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, KeyError):
                found = process(int(entry.name))
                if found.parent == tor and verb in found.words and any("torknock" in word for word in found.words):
                    return found
    return None


def service_here(verb: str) -> Process | None:
    """The process `torknock VERB` of this network namespace; None if none is seen."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, KeyError):
                found = process(int(entry.name))
                pairs = zip(found.words, found.words[1:], strict=False)
                if any(word.endswith("torknock") and next_ == verb for word, next_ in pairs) and same_network(
                    found.pid
                ):
                    return found
    return None


def processes_of(uid: int) -> Iterator[Process]:
    """Every process of the user *uid*."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, KeyError):
                if (found := process(int(entry.name))).uid == uid:
                    yield found


def started_at(pid: int) -> int | None:
    """When the process *pid* began, in the kernel's ticks since the boot; None if it runs no longer."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def booted_at() -> int:
    """When this host was booted, in whole seconds since 1970."""
    lines = (_PROC / "stat").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("btime ")).split()[1])


def command_line(pid: int) -> list[bytes]:
    """The words of the command line of the process *pid*; none if it runs no longer."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def may_open_files(pid: int) -> int:
    """How many files the process may open at once (RLIMIT_NOFILE, the soft limit)."""
    for line in (_PROC / str(pid) / "limits").read_text().splitlines():
        if line.startswith("Max open files"):
            return int(line.split()[3])
    raise ValueError("no limit of open files is told")


def confinement(pid: int) -> str:
    """The AppArmor profile of the process and its mode, such as `system_tor (enforce)`; "" where there is none."""
    try:
        label = (_PROC / str(pid) / "attr" / "current").read_text("ascii", "replace").strip("\0\n")
    except OSError:
        return ""
    return "" if label in ("unconfined", "kernel") else label


def same_network(pid: int) -> bool:
    """Whether the process is in this process' network namespace."""
    return os.stat(_PROC / str(pid) / "ns/net").st_ino == network_namespace()


def network_namespace() -> int:
    """The number of this thread's network namespace, which no other has while it exists (namespaces(7))."""
    return os.stat(_PROC / "thread-self/ns/net").st_ino


def listening() -> list[Listening]:
    """Every TCP socket that listens in this network namespace."""
    return [*_listening("tcp"), *_listening("tcp6")]


def is_served(host: str, port: int) -> bool:
    """Whether something listens on *port* where SYNs for *host* would find it; "0.0.0.0" and "::" are every address.

    It is looked up, not tried: a process that may not bind a port below 1024 may look.
    """
    wanted = ip_address(host)
    return any(
        wanted.is_unspecified
        or each.address == wanted
        or (each.address.is_unspecified and each.address.version >= wanted.version)
        for each in listening()
        if each.port == port
    )


def sockets_of(pid: int) -> frozenset[int]:
    """The inodes of the sockets that the process has open."""
    inodes = set()
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                inodes.add(int(found[1]))
    return frozenset(inodes)


def _listening(table: str) -> Iterator[Listening]:
    try:
        rows = (_PROC / "self/net" / table).read_text("ascii").splitlines()[1:]  # AppArmor's rules name this path
    except FileNotFoundError:  # the kernel has no IPv6
        if table == "tcp":
            raise
        return
    for row in rows:
        words = row.split()
        if words[3] == _LISTEN:
            host, port = words[1].split(":")
            yield Listening(_address(host), int(port, 16), int(words[9]))


def _address(digits: str) -> IPv4Address | IPv6Address:
    """The address that /proc writes as words of 32 bits in this machine's order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    octets = struct.pack(f"={len(words)}I", *words)
    if len(octets) == 4:
        return IPv4Address(octets)
    address = IPv6Address(octets)
    return address.ipv4_mapped or address


def answers(path: str) -> OSError | None:
    """Why no process can be reached at the Unix socket at *path*; None if one can."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(2.0)
        try:
            asked.connect(path)
        except OSError as error:
            return error
    return None


def may_open(path: str, who: Process) -> bool:
    """Whether the rights of the socket at *path* let the process *who* connect."""
    found = os.stat(path)
    mode = found.st_mode
    if who.uid == 0:
        return True
    if who.uid == found.st_uid:
        return bool(mode & 0o200)
    return bool(mode & 0o020) if found.st_gid in who.groups else bool(mode & 0o002)
