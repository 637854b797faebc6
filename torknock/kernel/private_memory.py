"""Keeps what is in the memory of this process from other processes of its user."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def keep_memory_private() -> None:
    """Let no process without CAP_SYS_PTRACE debug this one or read its memory, and no core dump be made of it.

    So tor keeps itself (`DisableDebuggerAttachment`). It ends with the next program that is executed (prctl(2),
    PR_SET_DUMPABLE). Raises `OSError`.
    """
    with contextlib.suppress(OSError, ValueError):  # a unit's filter of system calls, whose LimitCORE has done it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
