"""How long a closed port takes to answer a SYN: the protected port, a neighbour, and another neighbour as the control.

One SYN is under way at a time; the three ports take turns in random order, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import secrets
import socket
import statistics
import time
from collections.abc import Iterator, Sequence

from contrib.bench.table import Figure
from tests.support.capture import Control, build
from tests.support.netns import Host, Lab
from tests.support.packets import ETH_P_IP, LINUX_SYN_OPTIONS, packet_from
from torknock.protocol.door import Door
from torknock.service.ruleset import HiddenPorts, admit, load

PORT, NEIGHBOUR, CONTROL = 443, 444, 445
PAIRS = 20_000
_WARMING = 500
_SOURCE_PORTS = range(20_000, 32_000)


def _answer_times(lab: Lab, bridge: Host, pairs: int) -> dict[int, list[int]]:
    """Nanoseconds from a SYN to its RST, by port, as the router next to *bridge* sees them."""
    with lab.hub.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    to = (bridge.hub_interface, ETH_P_IP, 0, 0, bytes.fromhex(bridge.mac.replace(":", "")))
    times: dict[int, list[int]] = {PORT: [], NEIGHBOUR: [], CONTROL: []}
    order, source_ports = list(times), itertools.cycle(_SOURCE_PORTS)
    gc.disable()
    try:
        with wire:
            wire.bind((bridge.hub_interface, ETH_P_IP))
            wire.settimeout(1)
            for turn in range(-_WARMING, pairs):
                random.shuffle(order)
                for port in order:
                    syn = packet_from(
                        bridge, bridge.address, port,
                        source=bridge.gateway, source_port=next(source_ports), options=LINUX_SYN_OPTIONS,
                    )  # fmt: skip
                    datagram = build(syn)
                    began = time.perf_counter_ns()
                    wire.sendto(datagram, to)
                    answer = wire.recv(256)
                    took = time.perf_counter_ns() - began
                    if (int.from_bytes(answer[20:22]), answer[33]) != (port, Control.RST | Control.ACK):
                        raise RuntimeError("what answered is not the RST that was waited for")
                    if turn >= 0:
                        times[port].append(took)
    finally:
        gc.enable()
    return times


def same_distribution(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of the two-sample Kolmogorov-Smirnov test, by its asymptotic distribution."""
    one, other = sorted(one), sorted(other)
    at, beside, distance = 0, 0, 0.0
    while at < len(one) and beside < len(other):
        value = min(one[at], other[beside])
        while at < len(one) and one[at] <= value:
            at += 1
        while beside < len(other) and other[beside] <= value:
            beside += 1
        distance = max(distance, abs(at / len(one) - beside / len(other)))
    scaled = distance * math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    if scaled < 0.2:  # the series converges slowly there, to 1
        return 1.0
    return min(1.0, math.fsum(2 * (-1.0) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)))


def figures() -> Iterator[Figure]:
    """For 0, 24 and 100,000 tokens the difference of the medians, and whether the distributions are the same."""
    with Lab() as lab:
        bridge = lab.host("bridge")
        door = Door("::", PORT)
        for count in (0, 24, 100_000):
            tokens = [1 + secrets.randbelow(2**32 - 1) for _ in range(count)]
            admitted = admit(door.table, tokens, 900) if tokens else ""
            bridge.run(["nft", "-f", "-"], load(door, HiddenPorts(1, 2)) + admitted)
            times = _answer_times(lab, bridge, PAIRS)
            for port, name, bound in ((PORT, "the port", 0.1), (CONTROL, "a neighbour", None)):
                difference = (statistics.median(times[port]) - statistics.median(times[NEIGHBOUR])) / 1000
                what = f"{name} - a neighbour, {count:,} tokens"
                yield Figure("timing", f"|{what}|", abs(difference), "us", at_most=bound)
                p = same_distribution(times[port], times[NEIGHBOUR])
                yield Figure("timing", f"{what}: KS test", p, "p", at_least=None if bound is None else 0.01)
