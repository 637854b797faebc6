"""A middlebox in the hub that changes TCP segments on their way, in both directions, so that connections still stand.

    with Middlebox(lab, client, bridge, lambda packet, outward: replace(packet, ...)):
        ...

What the client and the bridge send each other is routed into a TUN device, changed, and routed on. Needs root.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from tests.support.capture import NotTCP, Packet, build, parse
from tests.support.netns import Host, Lab

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # linux/if_tun.h
_DEVICE, _TABLE = "middle", 77

Change = Callable[[Packet, bool], Packet]
"""What becomes of a packet; the flag says that it goes from the client to the bridge."""

Copies = Callable[[], Sequence[float]]
"""How often a packet is sent on, and how many seconds later than others each time; not at all if it is lost."""


def shift_sequence_numbers(packet: Packet, outward: bool, by: int = 0x12345678) -> Packet:
    """The client's sequence numbers, as a firewall that chooses ISNs itself would change them."""
    if outward:
        return replace(packet, seq=(packet.seq + by) % 2**32)
    return replace(packet, ack=(packet.ack - by) % 2**32)


def take_timestamps_away(packet: Packet, outward: bool) -> Packet:
    """No-operations instead of the timestamps option."""
    options = packet.options
    for kind, data in packet.option_list:
        if kind == 8:
            options = options.replace(bytes([8, 10]) + data, bytes([1] * 10))
    return replace(packet, options=options)


def shift_timestamps(packet: Packet, outward: bool, by: int = 1000) -> Packet:
    """The client's clock, as a firewall that hides uptimes would change it."""
    options = packet.options
    for kind, data in packet.option_list:
        if kind == 8:
            tsval, tsecr = struct.unpack("!II", data)
            if outward:
                tsval = (tsval + by) % 2**32
            elif tsecr:
                tsecr = (tsecr - by) % 2**32
            options = options.replace(data, struct.pack("!II", tsval, tsecr))
    return replace(packet, options=options)


def leave_as_it_is(packet: Packet, outward: bool) -> Packet:
    """No change: a middlebox that only takes its time."""
    return packet


def once() -> Sequence[float]:
    """No loss, no copy, no other order."""
    return (0.0,)


class Middlebox:
    """Changes what *client* and *bridge* send each other until it is closed, and holds it back for *delay* seconds.

    *copies* is asked about each packet.
    """

    def __init__(
        self,
        lab: Lab,
        client: Host,
        bridge: Host,
        change: Change = leave_as_it_is,
        delay: float = 0.0,
        copies: Copies = once,
    ) -> None:
        self._hub, self._client, self._bridge, self._change = lab.hub, client, bridge, change
        self._delay, self._copies = delay, copies
        self._numbers = itertools.count()
        self._held: list[tuple[float, int, bytes]] = []
        """A heap of what is due when, in the order of arrival where that is the same."""
        self._stop = os.eventfd(0)
        with lab.hub.enter():
            self._tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self._tun, TUNSETIFF, struct.pack("16sH", _DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        lab.hub.sysctl("net.ipv4.conf.all.rp_filter", 0)
        lab.hub.sysctl(f"net.ipv4.conf.{_DEVICE}.rp_filter", 0)
        lab.hub.ip(f"link set {_DEVICE} up")
        for family in ("-4", "-6"):
            lab.hub.run(["ip", family, "route", "add", "default", "dev", _DEVICE, "table", str(_TABLE)])
            for one, other in ((client, bridge), (bridge, client)):
                to = other.address if family == "-4" else other.address6
                rule = ["iif", one.hub_interface, "to", to, "lookup", str(_TABLE)]
                lab.hub.run(["ip", family, "rule", "add", *rule])
        self._thread = threading.Thread(target=self._run, name="middlebox", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            wait = max(0.0, self._held[0][0] - time.monotonic()) if self._held else None
            ready = select.select([self._tun, self._stop], [], [], wait)[0]
            if self._stop in ready:
                return
            if self._tun in ready:
                due, octets = time.monotonic() + self._delay, self._changed(os.read(self._tun, 1 << 16))
                for later in self._copies():
                    heapq.heappush(self._held, (due + later, next(self._numbers), octets))
            while self._held and self._held[0][0] <= time.monotonic():
                os.write(self._tun, heapq.heappop(self._held)[2])

    def _changed(self, octets: bytes) -> bytes:
        try:
            packet = parse(octets)
        except NotTCP:
            return octets
        outward = packet.source in (self._client.address, self._client.address6)
        return build(self._change(packet, outward))

    def close(self) -> None:
        """Let everything pass unchanged; what stood breaks."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._tun)
        os.close(self._stop)
        for family in ("-4", "-6"):
            for _ in range(2):
                self._hub.run(["ip", family, "rule", "del", "lookup", str(_TABLE)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
