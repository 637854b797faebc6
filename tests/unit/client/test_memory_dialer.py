"""The contract of dialers, kept by the one in memory that other tests use (`tests.support.dialers`)."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from twisted.trial.unittest import TestCase

from tests.support.dialer_contract import DialerContract, reactor
from tests.support.dialers import ACCEPTS, MemoryDialer

HOSTS = ("192.0.2.1", "2001:db8::1")


class MemoryDialerTests(DialerContract, TestCase):
    """`MemoryDialer`."""

    timeout = 60

    def setUp(self) -> None:
        self.opens, self.refuses, self.silent = ([(host, port) for host in HOSTS] for port in (443, 444, 445))
        self.no_way = ("198.51.100.1", 443)
        answers = dict.fromkeys(self.opens, ACCEPTS) | dict.fromkeys(self.refuses, errno.ECONNREFUSED)
        self.dialer = self.memory = MemoryDialer(reactor, {**answers, self.no_way: errno.EHOSTUNREACH})
        self.addCleanup(self.close)

    def left(self) -> Sequence[tuple[str, int, int]]:
        return self.memory.syns

    def close(self) -> None:
        """Close the other ends."""
        for each in self.memory.accepted:
            each.close()
