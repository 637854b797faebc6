"""The contract of dialers, kept by the real ones with real packets: in this process, and by `torknock dial`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from tests.kernel import test_dial_service
from tests.kernel.test_dial_service import CLOSED, PORT
from tests.support.dialer_contract import DialerContract
from tests.support.dialers import DialerOf


class RepairDialerTests(DialerContract, test_dial_service.Case):
    """`RepairDialer`, at a bridge behind a router that has no way to another network."""

    def setUp(self) -> Any:
        test_dial_service.Case.setUp(self)
        self.opens = [(host, PORT) for host in self.addresses]
        self.refuses = [(host, CLOSED) for host in self.addresses]
        self.silent = [(self.bridge.silent, PORT), (self.bridge.silent6, PORT)]
        self.no_way = ("198.51.100.1", PORT)
        self.lab.hub.ip("route add unreachable 198.51.100.0/24")
        return self.choose()

    def choose(self) -> Any:
        """Set the dialer."""
        self.dialer = DialerOf(self.client)

    def left(self) -> Sequence[tuple[str, int, int]]:
        return [(syn.destination, syn.destination_port, syn.seq) for syn in self.syns()]


class RemoteDialerTests(RepairDialerTests):
    """`RemoteDialer`, and the service that dials for it."""

    def choose(self) -> Any:
        return Deferred.fromCoroutine(self.served())
