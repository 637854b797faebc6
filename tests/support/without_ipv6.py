"""Runs a program as on a kernel without IPv6 (`ipv6.disable=1`): `python tests/support/without_ipv6.py PROGRAM ...`.

Such a kernel cannot be had in a namespace: the option is read at boot. So a seccomp filter refuses sockets of AF_INET6
with the error that it gives, EAFNOSUPPORT, and a mount namespace hides the files that it lacks in /proc/net. The
namespace of the network still has IPv6; use `disable_ipv6` for addresses. Needs root; x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

HIDDEN = ("tcp6", "udp6", "raw6", "if_inet6", "ipv6_route", "snmp6", "sockstat6")

_SOCKET = {"x86_64": 41, "aarch64": 198}[os.uname().machine]  # asm/unistd.h
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
_SECCOMP_MODE_FILTER = 2  # linux/seccomp.h
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h
_LD_ABS, _JEQ, _RET = 0x20, 0x15, 0x06  # linux/bpf_common.h, linux/filter.h
_CLONE_NEWNS = 0x00020000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


def refuse_sockets() -> None:
    """Have this process and its children fail at `socket(AF_INET6, ...)`, and at nothing else. Any user may."""
    if os.geteuid() != 0 and _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):  # seccomp(2)
        raise OSError(ctypes.get_errno(), "prctl")
    program = [
        (_LD_ABS, 0, 0, 0),  # seccomp_data.nr
        (_JEQ, 0, 3, _SOCKET),
        (_LD_ABS, 0, 0, 16),  # seccomp_data.args[0], its lower half
        (_JEQ, 0, 1, socket.AF_INET6),
        (_RET, 0, 0, _RET_ERRNO | errno.EAFNOSUPPORT),
        (_RET, 0, 0, _RET_ALLOW),
    ]
    octets = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    kept = ctypes.create_string_buffer(octets, len(octets))
    fprog = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(kept)))
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _hide_files() -> None:
    """Have this process see links to another process' /proc/net in the place of its own, but for `HIDDEN`."""
    keeper = os.fork()
    if keeper == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        while True:
            signal.pause()
    shown = Path("/mnt")  # anybody's to mount on, in a mount namespace of one's own
    if _libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", shown], check=True)
    for each in Path(f"/proc/{keeper}/net").iterdir():
        if each.name not in HIDDEN:
            (shown / each.name).symlink_to(each)
    for place in ("net", f"task/{os.getpid()}/net"):
        subprocess.run(["mount", "--bind", shown, f"/proc/{os.getpid()}/{place}"], check=True)


if __name__ == "__main__":
    _hide_files()
    refuse_sockets()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  what the test names
