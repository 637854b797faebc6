"""Tests of torknock.privileged.dial.repair: what leaves the host, held against what a plain `connect` sends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import random
import socket
import statistics
import struct
import sys
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.capture import Capture, Control, Packet
from tests.support.dialers import DialerOf
from tests.support.knocks import as_it_is
from tests.support.netns import Host, Lab
from tests.support.reactor import reactor
from torknock.client.knocker import Knocker
from torknock.client.memory import Memory
from torknock.interfaces import CannotKnock, Slipped
from torknock.kernel.capability import NO_CAPABILITY
from torknock.kernel.socket_options import TCP_REPAIR
from torknock.privileged.dial.repair import RepairDialer
from torknock.privileged.dial.tuples import SAME_TUPLE_AFTER, Tuples
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import EPOCH, tokens

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

ISN = 0xC0FFEE42
PORT = 443
CLOSED = 444
ROOT = Path(__file__).parent.parent.parent

WITHOUT = """
import sys
from twisted.internet import reactor
from torknock.privileged.dial.repair import RepairDialer
RepairDialer(reactor).dial(sys.argv[1], 443, 7).addErrback(lambda failure: print(failure.type.__name__, failure.value))
"""


class Later:
    """The reactor, with a clock that tests can turn."""

    def __init__(self, clock: Clock) -> None:
        self.seconds = clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def isn_apart(packet: Packet) -> Packet:
    """*packet* without what differs from one SYN of a kernel to its next (TSval among the options)."""
    options = packet.options
    for kind, data in packet.option_list:
        if kind == 8:
            options = options.replace(data, bytes(8))
    return replace(packet, seq=0, source_port=0, identification=0, flow_label=0, options=options)


def sockets() -> set[str]:
    """Those that this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is gone
            found.add(os.readlink(descriptor))
    return {name for name in found if name.startswith("socket:")}


class Case(TestCase):
    """A bridge that listens and a client, with IPv4 and IPv6 between them."""

    skip = needs_root

    def setUp(self) -> None:
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.bridge, self.client = self.lab.host("bridge"), self.lab.host("client")
        self.addresses = (self.bridge.address, self.bridge.address6)
        self.listeners = {address: self.listening(self.bridge, address) for address in self.addresses}
        self.dialer = RepairDialer(reactor)
        self.capture = Capture(self.client)
        self.addCleanup(self.capture.stop)

    def listening(self, host: Host, address: str, port: int = PORT) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with host.enter():
            listener = socket.create_server((address, port), family=family, backlog=1024)
        self.addCleanup(listener.close)
        return listener

    def dial(self, host: str, port: int = PORT, isn: int = ISN, dialer: RepairDialer | None = None) -> Deferred[Any]:
        """A knock out of the client; what it opens is closed after the test."""
        with self.client.enter():
            result = (dialer or self.dialer).dial(host, port, isn)
        return result.addCallback(self.kept)

    def plain(self, host: str, port: int = PORT) -> socket.socket:
        """A connection as any other program of the client makes it."""
        with self.client.enter():
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.kept(made).connect((host, port))
        return made

    def kept(self, connected: socket.socket) -> socket.socket:
        self.addCleanup(connected.close)
        return connected

    def syns(self) -> list[Packet]:
        """Those that the client has sent."""
        return [packet for packet in self.capture.tcp() if packet.opens]


class SYNTests(Case):
    """The SYN."""

    async def test_it_carries_the_isn(self) -> None:
        """Every ISN but 0, over IPv4 and IPv6; the socket that comes back is connected and does not block."""
        for host in self.addresses:
            for isn in (1, ISN, 2**31, 2**32 - 1):
                connected = await self.dial(host, isn=isn)
                self.assertEqual(connected.getpeername()[:2], (host, PORT))
                self.assertFalse(connected.getblocking())
                self.assertFalse(connected.get_inheritable())
                port = connected.getsockname()[1]
                [syn] = [packet for packet in self.syns() if packet.source_port == port]
                self.assertEqual((syn.destination, syn.seq), (host, isn))

    async def test_it_is_the_kernels_own(self) -> None:
        """But for the ISN, every field is as in a plain SYN of the same host, or random like it."""
        for host in self.addresses:
            for _ in range(8):
                self.plain(host)
                await self.dial(host)
            syns = [packet for packet in self.syns() if packet.destination == host]
            self.assertEqual(len(syns), 16)
            self.assertEqual([packet.seq == ISN for packet in syns], [False, True] * 8)
            self.assertEqual(len({isn_apart(packet) for packet in syns}), 1, syns)
            for random_field in ("identification", "flow_label"):
                distinct = {len({getattr(syn, random_field) for syn in syns[kind::2]}) for kind in (0, 1)}
                self.assertIn(distinct, [{1}, {7, 8}, {7}, {8}])
        for seen in self.capture.seen:
            if seen.packet is not None and seen.packet.opens:
                self.assertTrue(seen.checksum_good)

    async def test_tsval_is_the_kernels_own(self) -> None:
        """One clock for each 4-tuple: the knock goes on where a plain connection left it (RFC 7323 §5.4)."""
        self.client.sysctl("net.ipv4.ip_local_port_range", "40000 40000")
        for host in self.addresses:
            for _ in range(2):
                with self.assertRaises(OSError):
                    self.plain(host, CLOSED)
                with contextlib.suppress(ConnectionRefusedError):
                    await self.dial(host, CLOSED, dialer=RepairDialer(reactor))
            offsets = [
                (one.packet.tsval - one.time_ns // 10**6) % 2**32
                for one in self.capture.seen
                if one.packet and one.packet.opens and one.packet.destination == host and one.packet.tsval is not None
            ]
            self.assertEqual(len(offsets), 4)
            for offset in offsets[1:]:
                self.assertLess((offset - offsets[0] + 500) % 2**32, 1000)  # ms, on a busy machine

    async def test_source_ports_are_the_kernels_walk(self) -> None:
        """Knocks and plain connections take turns on one walk through the ports, and step alike.

        The kernel begins a walk elsewhere every 10 s (EPHEMERAL_PORT_SHUFFLE_PERIOD, net/core/secure_seq.c).
        """
        for host in self.addresses:
            for bind in (None, (self.client.address, self.client.address6)):
                dialer = RepairDialer(reactor, *bind) if bind else self.dialer
                ports = []
                for _ in range(150):
                    for connected in (self.plain(host), await self.dial(host, dialer=dialer)):
                        ports.append(connected.getsockname()[1])
                        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        connected.close()
                low, high = 32768, 60999
                steps = [(after - before) % (high - low + 1) for before, after in pairwise(ports)]
                self.assertTrue(all(low <= port <= high for port in ports))
                self.assertEqual({port % 2 for port in ports}, {low % 2})  # the other half is bind's
                knocked, plain = ([step for step in steps[kind::2] if step < 100] for kind in (0, 1))
                self.assertGreater(len(knocked + plain), 0.9 * len(steps), steps)
                self.assertLess(abs(statistics.fmean(knocked) - statistics.fmean(plain)), 3)

    async def test_an_unanswered_syn_is_sent_again_with_the_same_isn(self) -> None:
        """A SYN that nobody answers is sent again as it was, with the same ISN."""
        for host in (self.bridge.silent, self.bridge.silent6):
            waiting = self.dial(host)
            self.capture.wait(lambda packet, host=host: packet.destination == host)  # type: ignore[misc]
            while len(found := [packet for packet in self.syns() if packet.destination == host]) < 2:
                await deferLater(reactor, 0.05)
            waiting.addErrback(lambda _: None).cancel()
            self.assertEqual({(packet.seq, packet.source_port) for packet in found}, {(ISN, found[0].source_port)})
            self.assertEqual(len({isn_apart(packet) for packet in found}), 1)

    async def test_time_wait_does_not_choose_the_isn(self) -> None:
        """A kernel that takes a 4-tuple out of TIME-WAIT continues its numbers: not with a knock."""
        self.client.sysctl("net.ipv4.ip_local_port_range", "40000 40000")
        self.client.sysctl("net.ipv4.tcp_tw_reuse", 1)
        connected = self.plain(self.bridge.address)
        accepted, _ = self.listeners[self.bridge.address].accept()
        connected.close()
        accepted.close()
        self.capture.wait(lambda packet: bool(packet.control & Control.FIN) and packet.source == self.bridge.address)
        knocked = None
        while knocked is None:
            try:
                knocked = await self.dial(self.bridge.address)
            except CannotKnock as error:
                self.assertEqual(error.number, errno.EADDRNOTAVAIL)
                await deferLater(reactor, 0.1)
        self.assertEqual([packet.seq == ISN for packet in self.syns()], [False, True])


class TupleTests(Case):
    """4-tuples."""

    async def test_what_stays_on_this_host_is_not_remembered(self) -> None:
        """To loopback, and to an address of its own: nobody else sees those ISNs."""
        dialled = Tuples()
        dialer = RepairDialer(reactor, dialled=dialled)
        for host in ("127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::ffff:127.0.0.1", *self.own()):  # noqa: S104
            with contextlib.suppress(ConnectionRefusedError):
                await self.dial(host, dialer=dialer)
        self.assertEqual(len(dialled), 0)
        await self.dial(self.bridge.address, dialer=dialer)
        await self.dial(f"::ffff:{self.bridge.address}", dialer=dialer)
        self.assertEqual(len(dialled), 2)
        self.assertEqual({syn.destination for syn in self.syns()}, {self.bridge.address})

    def own(self) -> tuple[str, str]:
        """The client's addresses."""
        return self.client.address, self.client.address6

    async def dialled(self, host: str, dialer: RepairDialer, stamped: bool) -> None:
        """Dial a port of *host* that answers RST, as either scheme does."""
        with self.client.enter(), contextlib.suppress(ConnectionRefusedError, Slipped):
            await (dialer.dial_stamped(host, CLOSED, lambda _: ISN) if stamped else dialer.dial(host, CLOSED, ISN))

    async def every_port_once(self, host: str, stamped: bool, left_out: set[int]) -> None:
        """Dial *host* until no source port is left but those *left_out*; one is free 5 minutes later."""
        clock = Clock()
        low, high = map(int, self.client.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).stdout.split())
        wanted, before = set(range(low, high + 1)) - left_out, len(self.syns())
        dialled = Tuples()
        dialer = RepairDialer(cast(Any, Later(clock)), dialled=dialled)
        for _ in wanted:
            await self.dialled(host, dialer, stamped)
            clock.advance(0.01)
        self.assertEqual(len(dialled), len(wanted))
        with self.assertRaises(CannotKnock) as cannot:
            await self.dialled(host, dialer, stamped)
        self.assertIn(f"{len(wanted)} were used for this bridge in the last 5 minutes", str(cannot.exception))
        self.assertIn(f"try again in {math.ceil(SAME_TUPLE_AFTER - 0.01 * len(wanted))} s", str(cannot.exception))
        ports = [syn.source_port for syn in self.syns()[before:]]
        self.assertLessEqual(set(ports), wanted)
        self.assertEqual(len(set(ports)), len(ports))
        if not stamped:  # such a SYN may be too late to leave
            self.assertEqual(set(ports), wanted)
        clock.advance(SAME_TUPLE_AFTER - 0.01 * len(wanted))
        await self.dialled(host, dialer, stamped)
        with self.assertRaises(CannotKnock):
            await self.dialled(host, dialer, stamped)

    async def test_every_port_of_the_range_once(self) -> None:
        """Of both parities, without reserved ones and those that another socket holds; then it is said until when."""
        self.client.sysctl("net.ipv4.ip_local_port_range", "40000 40199")
        self.client.sysctl("net.ipv4.ip_local_reserved_ports", "40007,40100-40109")
        for host, own in zip(self.addresses, self.own(), strict=True):
            held = {self.listening(self.client, own, port).getsockname()[1] for port in (40_050, 40_051)}
            await self.every_port_once(host, False, {40_007, *range(40_100, 40_110), *held})

    async def test_every_port_of_a_narrow_range_once(self) -> None:
        """With either scheme."""
        self.client.sysctl("net.ipv4.ip_local_port_range", "60000 60010")
        for host in self.addresses:
            for stamped in (False, True):
                await self.every_port_once(host, stamped, set())


class ConnectionTests(Case):
    """What comes after the SYN."""

    async def test_segments_are_those_of_a_plain_connection(self) -> None:
        """Handshake, data and end: the same segments, none beside them."""
        for host in self.addresses:
            flows = []
            for knocked in (False, True):
                connected = await self.dial(host) if knocked else self.plain(host)
                accepted, peer = self.listeners[host].accept()
                connected.send(b"x" * 500)
                self.assertEqual(len(await deferToThread(accepted.recv, 500)), 500)
                connected.shutdown(socket.SHUT_WR)
                self.assertEqual(await deferToThread(accepted.recv, 1), b"")
                accepted.close()
                self.capture.wait(lambda one, port=peer[1]: port == one.destination_port and Control.FIN in one.control)  # type: ignore[misc]
                flow = [packet for packet in self.capture.tcp(peer[1]) if packet.source_port == peer[1]]
                first = flow[0]
                flows.append([
                    (one.control, (one.seq - first.seq) % 2**32, len(one.payload), one.window, one.ttl, one.tos,
                     tuple(kind for kind, _ in one.option_list))
                    for one in flow if one.length or one is flow[1]
                ])  # fmt: skip
                self.assertEqual([one.control for one in flow[:2]], [Control.SYN, Control.ACK])
            self.assertEqual(len(flows[0]), 4)
            self.assertEqual(flows[0], flows[1])

    async def test_a_megabyte_each_way_is_a_plain_ones(self) -> None:
        """The same kinds of segments, each in its place: none comes before what was sent, as a window probe does."""
        megabyte = bytes(1 << 20)

        def take(connected: socket.socket) -> None:
            left = len(megabyte)
            while left and (octets := connected.recv(min(left, 1 << 16))):
                left -= len(octets)

        for host in self.addresses:
            kinds, labels, steps = [], [], []
            for knocked in (False, True):
                connected = await self.dial(host) if knocked else self.plain(host)
                connected.setblocking(True)
                accepted, peer = self.listeners[host].accept()
                self.kept(accepted)
                for sender, taker in ((connected, accepted), (accepted, connected)):
                    taken = deferToThread(take, taker)
                    await deferToThread(sender.sendall, megabyte)
                    await taken
                connected.close()
                self.capture.wait(lambda one, port=peer[1]: port == one.source_port and Control.FIN in one.control)  # type: ignore[misc]
                flow = [packet for packet in self.capture.tcp(peer[1]) if packet.source_port == peer[1]]
                ends = [(packet.seq - flow[0].seq + packet.length) % 2**32 for packet in flow]
                probes = [one for one, end, sent in zip(flow, ends, accumulate(ends, max), strict=True)
                          if end < sent and not one.length]  # fmt: skip
                self.assertEqual(probes, [])
                self.assertEqual(max(ends), len(megabyte) + 2)
                kinds.append({(packet.control, bool(packet.payload), packet.ttl, packet.tos) for packet in flow})
                labels.append(flow[0].flow_label == flow[1].flow_label)
                steps.append({(b.identification - a.identification) % 2**16 for a, b in pairwise(flow)})
            for plain, knock in (kinds, labels, steps):
                self.assertEqual(plain, knock)

    async def test_socket_is_as_a_plain_one(self) -> None:
        """No option is left behind that would change what it does later."""
        options = {
            (socket.SOL_SOCKET, name): 4
            for name in (
                socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_KEEPALIVE, socket.SO_SNDBUF, socket.SO_RCVBUF,
                socket.SO_ERROR, socket.SO_PRIORITY, socket.SO_MARK, socket.SO_OOBINLINE,
            )
        } | {(socket.IPPROTO_TCP, name): 4 for name in (*range(1, 7), 9, 10, 12, TCP_REPAIR)}  # fmt: skip
        options[socket.IPPROTO_TCP, socket.TCP_INFO] = 8
        options[socket.IPPROTO_TCP, socket.TCP_CONGESTION] = 16
        for host in self.addresses:
            plain, knocked = self.plain(host), await self.dial(host)
            for (level, name), size in options.items():
                self.assertEqual(knocked.getsockopt(level, name, size), plain.getsockopt(level, name, size), name)

    async def test_megabytes_go_both_ways_intact(self) -> None:
        """Some megabytes go both ways intact."""
        sent = random.Random(1).randbytes(1 << 22)  # noqa: S311

        def echo(listener: socket.socket) -> None:
            accepted, _ = listener.accept()
            with accepted:
                while octets := accepted.recv(1 << 16):
                    accepted.sendall(octets)

        def back(connected: socket.socket) -> bytes:
            digest = hashlib.sha256()
            while octets := connected.recv(1 << 16):
                digest.update(octets)
            return digest.digest()

        for host in self.addresses:
            echoed = deferToThread(echo, self.listeners[host])
            connected = await self.dial(host)
            connected.setblocking(True)
            received = deferToThread(back, connected)
            await deferToThread(connected.sendall, sent)
            connected.shutdown(socket.SHUT_WR)
            self.assertEqual(await received, hashlib.sha256(sent).digest())
            await echoed

    async def test_a_rst_is_a_refusal_after_one_syn(self) -> None:
        """A RST is `ConnectionRefusedError`, after one SYN."""
        for host in self.addresses:
            with self.assertRaises(ConnectionRefusedError):
                await self.dial(host, CLOSED)
        self.assertEqual([(syn.destination_port, syn.seq) for syn in self.syns()], [(CLOSED, ISN)] * 2)
        self.assertEqual(len(self.capture.tcp()), 4)

    async def test_a_knock_that_is_given_up_closes_its_socket(self) -> None:
        """Who gives a knock up closes its socket."""
        before = sockets()
        for host in (self.bridge.silent, self.bridge.silent6):
            with self.assertRaises(TimeoutError):
                await self.dial(host).addTimeout(0.2, reactor)
        self.assertEqual(sockets(), before)

    async def test_a_router_that_knows_no_way_says_so(self) -> None:
        """A router that knows no way says so; where this host knows none, nothing leaves."""
        self.lab.hub.ip("route add unreachable 198.51.100.0/24")
        with self.assertRaises(ConnectError) as caught:
            await self.dial("198.51.100.1")
        self.assertEqual(caught.exception.osError, errno.EHOSTUNREACH)
        self.client.ip("route add unreachable 203.0.113.0/24")
        with self.assertRaises(CannotKnock) as cannot:
            await self.dial("203.0.113.1")
        self.assertEqual(cannot.exception.number, errno.EHOSTUNREACH)
        self.assertEqual({packet.destination for packet in self.syns()}, {"198.51.100.1"})


class DialTests(Case):
    """What is dialled, and from where."""

    async def test_isn_0_and_more_than_32_bits_are_refused(self) -> None:
        """0 would let the kernel choose, and more than 32 bits are none."""
        for isn in (0, -1, 2**32):
            self.assertRaises(ValueError, self.dialer.dial, self.bridge.address, PORT, isn)
        self.assertEqual(self.syns(), [])

    async def test_names_are_not_looked_up(self) -> None:
        """Names are not looked up: the resolver would learn the bridge."""
        for host in ("bridge.example", "1", ""):
            with self.assertRaises(CannotKnock):
                await self.dial(host)
        self.assertEqual([seen for seen in self.capture.seen if not seen.stays], [])

    async def test_no_4_tuple_twice_in_300_s(self) -> None:
        """Every port once, then none; after that time they come again."""
        self.client.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
        clock = Clock()
        dialer = RepairDialer(cast(Any, Later(clock)))
        for host in self.addresses:
            for _ in range(2):
                for _ in range(4):
                    with self.assertRaises(ConnectionRefusedError):
                        await self.dial(host, CLOSED, dialer=dialer)
                with self.assertRaises(CannotKnock) as cannot:
                    await self.dial(host, CLOSED, dialer=dialer)
                self.assertEqual(cannot.exception.number, errno.EADDRNOTAVAIL)
                clock.advance(SAME_TUPLE_AFTER)
            ports = [packet.source_port for packet in self.syns() if packet.destination == host]
            self.assertEqual([len(set(ports[:4])), len(set(ports[4:])), len(ports)], [4, 4, 8])

    async def test_a_port_that_was_never_used_is_preferred(self) -> None:
        """An observer may remember for longer than 300 s."""
        self.client.sysctl("net.ipv4.ip_local_port_range", "40000 40004")
        clock = Clock()
        dialer = RepairDialer(cast(Any, Later(clock)))
        for _ in range(5):
            with self.assertRaises(ConnectionRefusedError):
                await self.dial(self.bridge.address, CLOSED, dialer=dialer)
            clock.advance(SAME_TUPLE_AFTER)
        self.assertEqual(len({packet.source_port for packet in self.syns()}), 5)

    async def test_port_is_shared_with_connections_to_elsewhere(self) -> None:
        """As `connect` shares it: a host with many connections runs out of no ports."""
        for port, host in zip((40000, 40001), self.addresses, strict=True):
            self.client.sysctl("net.ipv4.ip_local_port_range", f"{port} {port}")
            self.listening(self.bridge, host, CLOSED)
            self.plain(host, CLOSED)
            knocked = await self.dial(host)
            self.assertEqual(knocked.getsockname()[1], port)
            with self.assertRaises(CannotKnock):
                await self.dial(host)

    async def test_the_syn_leaves_from_the_address_that_was_asked_for(self) -> None:
        """The SYN leaves from the address that was asked for; one that this host has not is an error."""
        second, second6 = f"198.18.{self.client.number}.3", f"2001:db8:{self.client.number:x}::3"
        self.client.ip(f"address add {second}/24 dev eth0", f"address add {second6}/64 dev eth0 nodad")
        dialer = RepairDialer(reactor, second, second6)
        for host, source in zip(self.addresses, (second, second6), strict=True):
            with self.assertRaises(ConnectionRefusedError):
                await self.dial(host, CLOSED, dialer=dialer)
            self.assertEqual(self.syns()[-1].source, source)
        with self.assertRaises(CannotKnock) as cannot:
            await self.dial(self.bridge.address, dialer=RepairDialer(reactor, "192.0.2.1"))
        self.assertEqual(cannot.exception.number, errno.EADDRNOTAVAIL)
        self.assertEqual({syn.source for syn in self.syns()}, {second, second6})

    async def test_bind_address_is_not_for_loopback(self) -> None:
        """What is on this host is reached from this host."""
        dialer = RepairDialer(reactor, self.client.address, self.client.address6)
        for host in ("127.0.0.1", "::1"):
            listener = self.listening(self.client, host, 0)
            connected = await self.dial(host, listener.getsockname()[1], dialer=dialer)
            self.assertEqual(connected.getsockname()[0], host)

    async def test_a_link_local_address_needs_its_interface(self) -> None:
        """Such an address needs its interface, which must be there."""
        own = self.lab.hub.run(["ip", "-6", "-o", "address", "show", "dev", "to-client", "scope", "link"]).stdout
        address = own.split()[3].partition("/")[0]
        for host in (address, f"{address}%nowhere"):
            with self.assertRaises(CannotKnock):
                await self.dial(host)
        with self.assertRaises(ConnectionRefusedError):
            await self.dial(f"{address}%eth0", CLOSED)
        self.assertEqual([packet.destination for packet in self.syns()], [address])

    async def test_without_the_capability(self) -> None:
        """`CannotKnock` says what is missing, and not a packet leaves."""
        without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", WITHOUT]
        for host in self.addresses:
            said = self.client.run(["env", f"PYTHONPATH={ROOT}", *without, host]).stdout
            self.assertEqual(said, f"CannotKnock {NO_CAPABILITY}\n")
        self.assertEqual(self.capture.tcp(), [])


class KnockerTests(Case):
    """`Knocker` at a port that answers everybody else with a RST."""

    line = Line(secret=bytes(range(32)), pin=bytes(32))

    def opens_in(self, epochs: range) -> None:
        """The bridge takes the tokens of *epochs* and no others."""
        opening = ", ".join(
            str(isn) for epoch in epochs for isn in tokens(self.line.secret, self.line.bridge_name, epoch, self.line.n)
        )
        self.bridge.run(["nft", "-f", "-"], f"""
            table inet door {{
                set tokens {{ typeof tcp sequence; elements = {{ {opening} }}; }}
                chain input {{
                    type filter hook input priority filter;
                    tcp dport {PORT} tcp flags & (syn | ack) == syn tcp sequence != @tokens reject with tcp reset
                }}
            }}
        """)  # fmt: skip

    def knocker(self) -> Knocker:
        memory = Memory(Path(self.mktemp()).parent)
        self.addCleanup(memory.close)
        return Knocker(DialerOf(self.client), reactor, lambda: 7.75 * EPOCH, random.SystemRandom(), memory)

    async def test_with_a_right_clock_each_connection_takes_one_syn(self) -> None:
        """One SYN for each connection."""
        self.opens_in(range(6, 9))
        knocker = self.knocker()
        for host in self.addresses:
            knocked = await knocker.knock(self.line, host, PORT, as_it_is)
            self.kept(knocked.socket)
            self.assertEqual(self.syns()[-1].seq, knocked.isn)
        self.assertEqual(len(self.syns()), 2)

    async def test_a_bridge_two_epochs_away_is_found(self) -> None:
        """A bridge two epochs away is found, and known once that was seen twice."""
        self.opens_in(range(8, 11))
        knocker = self.knocker()
        for syns in (2, 4, 5):
            self.kept((await knocker.knock(self.line, self.bridge.address, PORT, as_it_is)).socket)
            self.assertEqual(len(self.syns()), syns)
        self.assertGreater(knocker.minutes_slow(self.line, self.bridge.address, PORT), 0)
