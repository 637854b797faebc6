"""Whether the wall clock can be believed."""

from __future__ import annotations

import ctypes

_STA_UNSYNC = 0x40  # linux/timex.h


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` (adjtimex(2)), and more room than the rest takes."""

    _fields_ = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_char * 256),
    ]  # fmt: skip


def is_clock_synchronized() -> bool:
    """Whether NTP has set the wall clock, as the kernel is told; true where it does not say (a sandbox)."""
    told = _Timex()
    return ctypes.CDLL(None).adjtimex(ctypes.byref(told)) < 0 or not told.status & _STA_UNSYNC
