"""How often a SYN leaves with the TSval that was foreseen for it, and how many dials the worst case needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from contrib.bench.table import Figure
from tests.support.capture import Capture
from tests.support.netns import Host, Lab
from torknock.interfaces import Slipped
from torknock.privileged.dial.repair import RepairDialer

DIALS = 200
"""Connections of each kind: IPv4 and IPv6."""

PORT = 443

NONE_AT_ALL = 16
"""Dials after which something else is wrong."""


class _Reactor:
    """As much of one as a dialer asks for whose connection nobody waits for."""

    seconds = staticmethod(lambda: 0.0)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def _dials(client: Host, dialer: RepairDialer, target: str, foreseen: list[int]) -> int:
    """How many dials it takes until the SYN of one did not slip."""

    def isn(tsval: int) -> int:
        foreseen.append(tsval)
        return len(foreseen)  # so that a SYN on the wire says which dial it belongs to

    for dial in range(1, NONE_AT_ALL):
        slips: list[Failure] = []
        with client.enter():
            waiting: Deferred[Any] = dialer.dial_stamped(target, PORT, isn)
        waiting.addErrback(slips.append)
        waiting.cancel()
        if not any(slip.check(Slipped) for slip in slips):
            return dial
    return NONE_AT_ALL


def figures() -> Iterator[Figure]:
    """The share of first tries, and the most dials; what the wire says of those that the dialer took for good."""
    with Lab(offloads=False) as lab:
        bridge, client = lab.host("bridge"), lab.host("client")
        for name, target in (("IPv4", bridge.silent), ("IPv6", bridge.silent6)):
            dialer = RepairDialer(cast(Any, _Reactor()))
            foreseen: list[int] = []
            with Capture(client) as capture:
                needed = [_dials(client, dialer, target, foreseen) for _ in range(DIALS)]
                syns = [packet for packet in capture.tcp(PORT) if packet.opens]
            good = set()
            last = 0
            for dials in needed:
                last += dials
                good.add(last)
            wrong = [syn for syn in syns if syn.seq in good and syn.tsval != foreseen[syn.seq - 1]]
            first = 100 * sum(dials == 1 for dials in needed) / DIALS
            yield Figure("timestamp", f"{name}: first dial has the TSval foreseen", first, "%", at_least=95)
            yield Figure("timestamp", f"{name}: most dials for one knock", max(needed), "dials", at_most=3)
            yield Figure("timestamp", f"{name}: taken for good, and wrong on the wire", len(wrong), "SYNs", at_most=0)
