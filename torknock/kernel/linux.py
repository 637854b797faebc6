"""What Python does not know of the Linux kernel: numbers, whether this process may use them, privacy of its memory."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

TCP_REPAIR = 19  # linux/tcp.h
TCP_REPAIR_QUEUE = 20  # linux/tcp.h
TCP_QUEUE_SEQ = 21  # linux/tcp.h
TCP_TIMESTAMP = 24  # linux/tcp.h
TCP_SAVE_SYN = 27  # linux/tcp.h
TCP_SAVED_SYN = 28  # linux/tcp.h
TCP_FASTOPEN_CONNECT = 30  # linux/tcp.h
TCP_FASTOPEN_NO_COOKIE = 34  # linux/tcp.h
TCP_SEND_QUEUE = 2  # linux/tcp.h
TCP_REPAIR_ON = 1  # linux/tcp.h
TCP_REPAIR_OFF_NO_WP = -1  # linux/tcp.h
IPV6_TRANSPARENT = 75  # linux/in6.h
IP_MINTTL = 21  # linux/in.h
IPV6_MINHOPCOUNT = 73  # linux/in6.h
TCP_MD5SIG_EXT = 38  # linux/tcp.h
TCP_MD5SIG_FLAG_PREFIX = 1  # linux/tcp.h
SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h
SO_MEMINFO = 55  # asm-generic/socket.h
SO_PASSRIGHTS = 83  # asm-generic/socket.h, since Linux 6.16
SK_MEMINFO_DROPS = 8  # linux/sock_diag.h
STA_UNSYNC = 0x40  # linux/timex.h
PR_SET_DUMPABLE = 4  # linux/prctl.h

NO_CAPABILITY = (
    "this process lacks CAP_NET_ADMIN in its network namespace; start it as root, or in a container with NET_ADMIN"
)


NO_IPV6 = "this kernel has no IPv6"

_DESCRIPTORS_AT_MOST = 65_536
_DESCRIPTORS_UNKNOWN = 1_024  # the kernel's own soft limit, and systemd's

_LISTEN = "0A"  # TCP_LISTEN, net/tcp_states.h


def is_served(host: str, port: int) -> bool:
    """Whether something listens on *port* where SYNs for *host* would find it; "0.0.0.0" and "::" are every address.

    It is looked up, not tried: who may not bind a port below 1024 may look. Raises `OSError`.
    """
    wanted = ipaddress.ip_address(host)
    return any(
        wanted.is_unspecified or address == wanted or (address.is_unspecified and address.version >= wanted.version)
        for address, served in _listeners()
        if served == port
    )


def _listeners() -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Every TCP listener of this network namespace (proc(5), /proc/net/tcp)."""
    for name in ("tcp", "tcp6") if has_ipv6() else ("tcp",):
        for line in Path("/proc/self/net", name).read_text("ascii").splitlines()[1:]:
            _number, local, _remote, state, *_ = line.split()
            if state == _LISTEN:
                address, _, port = local.partition(":")
                words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
                yield ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)), int(port, 16)


def keep_memory_private() -> None:
    """Let no process without CAP_SYS_PTRACE debug this one or read its memory, and no core dump be made of it.

    So tor keeps itself (`DisableDebuggerAttachment`). It ends with the next program that is executed (prctl(2),
    PR_SET_DUMPABLE). Raises `OSError`.
    """
    with contextlib.suppress(OSError, ValueError):  # a unit's filter of system calls, whose LimitCORE has done it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may, 65,536 at most (getrlimit(2), RLIMIT_NOFILE); returns how many.

    Every connection takes two, and programs are started with a soft limit of 1,024. More than the most would make each
    start of a program slow, which closes all that may be open. A unit's filter of system calls may leave it as it is.
    """
    soft = _DESCRIPTORS_UNKNOWN
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = max(soft, min(hard, _DESCRIPTORS_AT_MOST))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft


def network_namespace() -> int:
    """The number of this thread's network namespace, which no other has while it exists (namespaces(7))."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def has_ipv6() -> bool:
    """Whether the kernel has IPv6. Without it (`ipv6.disable=1`) there are no such sockets, nor the files of /proc."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise
    return True


def may_administer_network() -> bool:
    """Whether this process has CAP_NET_ADMIN where it counts: in the user namespace of its network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                return False
            raise
    return True


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` (adjtimex(2)), and more room than the rest takes."""

    _fields_ = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_char * 256),
    ]  # fmt: skip


def is_clock_synchronized() -> bool:
    """Whether NTP has set the wall clock, as the kernel is told; true where it does not say (a sandbox)."""
    told = _Timex()
    return ctypes.CDLL(None).adjtimex(ctypes.byref(told)) < 0 or not told.status & STA_UNSYNC
