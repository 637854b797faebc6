"""Two copies of one SYN that arrive at once: from two hosts, on two processors."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.support.bridge import knocker
from tests.support.capture import Capture, Control, build
from tests.support.netns import Host
from tests.support.packets import ETH_P_IP, packet_from, send, source_port

T = TypeVar("T")


class Start:
    """What both racers wait at, in memory that they share; they spin, so that they leave within a microsecond."""

    def __init__(self) -> None:
        self._laps = memoryview(mmap.mmap(-1, 16)).cast("Q")

    def wait(self, racer: int) -> None:
        """Return when racer 0 and racer 1 have both come here once more."""
        laps = self._laps
        laps[racer] += 1
        while laps[1 - racer] < laps[racer]:
            pass


def both(hosts: Sequence[Host], run: Callable[[Host, int, Start], T]) -> list[T]:
    """What *run* returns for each of the two *hosts*, each in a process of its own on a processor of its own."""
    start, children = Start(), []
    for racer, host in enumerate(hosts):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                processors = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, {processors[racer % len(processors)]})
                with os.fdopen(writing, "wb") as out, host.enter():
                    pickle.dump(run(host, racer, start), out)
                os._exit(0)
            except BaseException:  # noqa: BLE001  a child must not run the parent's code
                traceback.print_exc(file=sys.stderr)
                os._exit(1)
        os.close(writing)
        children.append((pid, reading))
    told = []
    for pid, reading in children:
        with os.fdopen(reading, "rb") as answer:
            octets = answer.read()
        os.waitpid(pid, 0)
        told.append(pickle.loads(octets))  # noqa: S301  our own child's
    return told


def syn_acks(bridge: Host, hosts: Sequence[Host], port: int, isns: Sequence[int]) -> list[int]:
    """How many SYN-ACKs *bridge* has for two SYNs with each of *isns*, sent by both *hosts* at once to its *port*.

    The SYNs come from addresses that answer nothing.
    """
    ports = [source_port() for _ in isns]

    def run(host: Host, racer: int, start: Start) -> None:
        datagrams = [
            build(packet_from(host, bridge.address, port, seq=isn, source_port=own))
            for isn, own in zip(isns, ports, strict=True)
        ]
        to = (host.interface, ETH_P_IP, 0, 0, bytes.fromhex(host.gateway_mac.replace(":", "")))
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as wire:
            for datagram in datagrams:
                start.wait(racer)
                wire.sendto(datagram, to)

    with Capture(bridge) as capture:
        both(hosts, run)
        send(hosts[0], build(packet_from(hosts[0], bridge.address, port, control=Control.RST, seq=isns[-1])))
        capture.wait(lambda seen: seen.control == Control.RST and seen.seq == isns[-1])
        answered = {
            ((got.ack - 1) % 2**32, got.destination)  # once, however often it is sent again
            for got in capture.tcp(port)
            if got.control == Control.SYN | Control.ACK
        }
    count = Counter(isn for isn, _ in answered)
    return [count[isn] for isn in isns]


def connections(hosts: Sequence[Host], target: str, port: int, isns: Sequence[int], settled: float) -> list[list[str]]:
    """What became of two connections with each of *isns*, made by both *hosts* at once, after *settled* seconds.

    For each ISN "open", "ended" (it was open), "refused" or "silence" of both, sorted.
    """

    def run(host: Host, racer: int, start: Start) -> list[str]:
        waiting = [knocker(host, socket.AF_INET, isn) for isn in isns]
        for connection in waiting:
            connection.setblocking(False)
            start.wait(racer)
            connection.connect_ex((target, port))
        time.sleep(settled)
        told = [_became(connection) for connection in waiting]
        start.wait(racer)
        return told

    return [sorted(pair) for pair in zip(*both(hosts, run), strict=True)]


def _became(connection: socket.socket) -> str:
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return "open" if _connected(connection) else "silence"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        pass
    return "ended"


def _connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:  # its SYN was not answered
        return False
    return True
