"""How many connections a program takes at once, so that file descriptors remain for what keeps it alive."""

from __future__ import annotations

import contextlib
import resource

from twisted.logger import Logger

_log = Logger()

_AT_MOST = 65_536
_UNKNOWN = 1_024  # the kernel's own soft limit, and systemd's

RESERVE = 128
"""Descriptors that no connection may take: files, locks, listeners, the pipes of `nft`, askers of the status."""

OF_A_CLIENT = 2
"""Descriptors of a bridge's client: its connection, and the one to tor."""

OF_A_REQUEST = 4
"""Descriptors of a SOCKS request: tor's connection, the bridge's, and those of the knock, later of TLS's key log."""

OF_A_PEER = 8
"""Descriptors of a peer of a service: its connection, twice, the sockets that are made for it, and one that leaves."""


def raise_descriptor_limit() -> int:
    """Let this process open as many files as it may, 65,536 at most (getrlimit(2), RLIMIT_NOFILE); returns how many.

    Every connection takes two, and programs are started with a soft limit of 1,024. More than the most would make each
    start of a program slow, which closes all that may be open. A unit's filter of system calls may leave it as it is.
    """
    soft = _UNKNOWN
    with contextlib.suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = max(soft, min(hard, _AT_MOST))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft


def places(limit: int, each: int) -> int:
    """How many connections of *each* descriptors a process has places for that may open *limit* files."""
    return max(1, (limit - RESERVE) // each)


class Places:
    """Room for *at_most* connections. *remedy* is what to do if that is too few.

    That connections are turned away is logged once, and once more when a tenth of the places is free again.
    """

    def __init__(self, at_most: int, remedy: str) -> None:
        self._at_most, self._remedy = at_most, remedy
        self._taken = self._refused = 0

    def take(self) -> bool:
        """Whether there is a place; it is the caller's, to be given back."""
        if self._taken < self._at_most:
            self._taken += 1
            return True
        self._refused += 1
        if self._refused == 1:
            _log.warn(
                "connections turned away: all {number} places are taken; {remedy}",
                number=self._at_most, remedy=self._remedy,
            )  # fmt: skip
        return False

    def give_back(self) -> None:
        """A connection has ended that had a place."""
        self._taken -= 1
        if self._refused and self._taken <= self._at_most * 9 // 10:
            _log.warn("connections accepted again; {number} were turned away", number=self._refused)
            self._refused = 0


def of_transport(limit: int, each: int) -> Places:
    """The places of a transport that may open *limit* files."""
    remedy = f"it may open {limit:,} files: raise LimitNOFILE= of tor's unit, or ulimit -n where tor is started"
    return Places(places(limit, each), remedy)
