"""Which tokens may have had a SYN-ACK, remembered from before the kernel forgets them until they have run out.

The kernel's set `claimed` (`ruleset`) lets a token have one SYN-ACK, and goes with its table. Before a
table is replaced or removed, what was in it is written down beside the claim on the door. What another program has
removed whole cannot be read any more.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from pathlib import Path

from twisted.internet.threads import deferToThreadPool

from torknock.interfaces import GateFailed
from torknock.kernel.files import read_own, replace_file
from torknock.kernel.netlink import Connect
from torknock.kernel.nftables_state import set_elements
from torknock.kernel.proc import network_namespace
from torknock.privileged.gate.kernel import IKernel
from torknock.service.gate_requests import SECONDS_AT_MOST
from torknock.service.posture_table import FAMILY

_RECORD = struct.Struct("=dI")
_ATTEMPTS = 5
_LARGEST = 1 << 26
"""Octets: five million tokens."""
_MEND = "make room for it, or see who owns it"


async def keep_claimed(kernel: IKernel, table: str, directory: Path) -> set[int]:
    """The tokens of *table* that may have had a SYN-ACK, now or before an earlier call; they are in *directory* now.

    From now on no token of the table is answered, so it is to be replaced or removed. Raises `GateFailed`.
    """
    flush = ["flush", "set", FAMILY, table, "tokens"]
    with contextlib.suppress(GateFailed):  # there is no such table, or another program has changed it
        await kernel.run("nft", flush)
    path = directory / f"{network_namespace()}-{table}.claimed"
    pool = kernel.reactor.getThreadPool()
    return await deferToThreadPool(kernel.reactor, pool, _kept, kernel.connect, table, path)


def _kept(connect: Connect, table: str, path: Path) -> set[int]:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = _claimed(connect, table)
    try:
        known = _read(path, now)
        if found - known.keys():
            known |= dict.fromkeys(found, now + SECONDS_AT_MOST)
            _write(path, known)
    except OSError as error:
        raise GateFailed(f"{path}: {error.strerror or type(error).__name__}", _MEND) from error
    return set(known)


def _claimed(connect: Connect, table: str) -> set[int]:
    """What the kernel holds; nothing if there is no such set."""
    for _ in range(_ATTEMPTS):
        try:
            return set_elements(table, "claimed", connect)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno == errno.ENOENT:
                return set()
            raise GateFailed(f"the tokens that were used cannot be read: {error.strerror or error}") from error
    raise GateFailed("the tokens that were used cannot be read, for nftables is changed all the time")


def _read(path: Path, now: float) -> dict[int, float]:
    """Token -> when it runs out. What is from before a reboot, whose clock was another, lasts as long as any can."""
    try:
        octets = read_own(path, _LARGEST)
    except FileNotFoundError:
        return {}
    whole = octets[: len(octets) // _RECORD.size * _RECORD.size]
    return {token: min(until, now + SECONDS_AT_MOST) for until, token in _RECORD.iter_unpack(whole) if until > now}


def _write(path: Path, known: dict[int, float]) -> None:
    """Replace the file; root and the owner of the directory can read what the other wrote."""
    replace_file(path, b"".join(_RECORD.pack(until, token) for token, until in known.items()), 0o644)
