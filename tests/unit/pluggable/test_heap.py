"""`pluggable.heap`, as the links of a relay use it."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pluggable.relay import TRIM_AFTER, Half, Links

BLOCK = 40_000
"""Octets: few enough for malloc to take them from its heap, and not each from the kernel."""

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p


def resident() -> int:
    """Octets of this process that are in memory (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class GiveBackTests(SynchronousTestCase):
    """What is free below what is in use, which no C library gives back by itself."""

    def test_links_that_went_give_memory_back(self) -> None:
        """After `TRIM_AFTER` of them, and not one earlier."""
        blocks = [ctypes.c_void_p(_libc.malloc(BLOCK)) for _ in range(1000)]
        for block in blocks:
            ctypes.memset(block, 1, BLOCK)
        last = blocks.pop()
        self.addCleanup(_libc.free, last)
        for block in blocks:
            _libc.free(block)
        links = Links()
        for _ in range(TRIM_AFTER - 1):
            links.discard(Half())
        kept = resident()
        links.discard(Half())
        self.assertGreater(kept - resident(), 30_000_000)
