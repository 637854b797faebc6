"""Tests of the postures with real packets: what strangers see, and that a token opens all the same."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, TORKNOCK, HiddenService, knock
from tests.support.capture import Capture, Control, Packet, build, checksum, parse
from tests.support.netns import Host, Lab, Namespace, end
from tests.support.packets import (
    ETH_P_IP,
    ETH_P_IPV6,
    LINUX_SYN_OPTIONS,
    MATRIX,
    echo_request,
    flood,
    fragments,
    packet_from,
    probe,
    resets,
)
from torknock.protocol.bridge_line import Scheme
from torknock.protocol.door import Door, Posture
from torknock.protocol.knock import isn as knock_isn
from torknock.protocol.token import epoch_at, tokens
from torknock.service.posture_table import load_posture, posture_table
from torknock.service.ruleset import SAMPLE, HiddenPorts, admit, load, remove, rest

HIDDEN = HiddenPorts(1, 2)

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

DROPPED = "table inet drops { chain c { type filter hook input priority filter; tcp dport 444 drop; }; }\n"
"""A port that a firewall drops, beside the hidden one."""


def inject(host: Host, hub: Namespace, datagram: bytes) -> None:
    """Put *datagram* on the wire to *host*, past the hub, which would answer some of what is odd itself."""
    protocol = ETH_P_IP if datagram[0] >> 4 == 4 else ETH_P_IPV6
    with hub.enter():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    with wire:
        wire.sendto(datagram, (host.hub_interface, protocol, 0, 0, bytes.fromhex(host.mac.replace(":", ""))))


def essence(raw: bytes) -> tuple[int, ...]:
    """What of an answer does not depend on ports and numbers: protocol, ICMP's type and code or TCP's flags, length."""
    protocol, start = (raw[9], (raw[0] & 15) * 4) if raw[0] >> 4 == 4 else (raw[6], 40)
    header = raw[start:]
    told = (header[13], 0) if protocol == socket.IPPROTO_TCP else (header[0], header[1])
    return protocol, *told, len(raw)


def oddities(client: Host, bridge: Host, port: int) -> Iterator[tuple[str, list[bytes]]]:
    """Datagrams to *port* that a scanner may send to tell one silence from another, by name."""

    def syn(**fields: Any) -> Packet:
        return packet_from(client, bridge.address, port, **{"source_port": 2000, "seq": 7, **fields})

    def syn6(**fields: Any) -> Packet:
        return packet_from(client, bridge.address6, port, **{"source_port": 2000, "seq": 7, **fields})

    for name, options in {
        "no-operations": "01010101", "timestamp too short": "44030000", "record route too short": "07020000",
        "record route, bad pointer": "07070100 00000000", "length 0": "ff000000", "CIPSO": "86060000 00010000",
        "length beyond the header": "88200000", "router alert": "94040000", "router alert too short": "94030000",
        "loose source route": "830704c6 12010100",
    }.items():  # fmt: skip
        yield f"IP option: {name}", [build(syn(ip_options=bytes.fromhex(options)))]
    whole, first, small, twice = (
        build(syn(ip_flags=0, options=LINUX_SYN_OPTIONS, identification=port + 1000 * number)) for number in range(4)
    )
    yield "fragments", fragments(whole, 16)
    yield "fragments, the last first", fragments(first, 16)[::-1]
    yield "a first fragment of 8 octets", fragments(small, 8)
    yield "overlapping fragments", [*fragments(twice, 16)[:2], *fragments(twice, 24)]
    yield "TTL 1", [build(syn(ttl=1))]
    yield "source port 0", [build(syn(source_port=0))]
    yield "bad checksum", [build(syn(), bad_checksum=True)]
    yield "from the address itself", [build(syn(source=bridge.address))]
    yield "to the broadcast address", [build(replace(syn(), destination=bridge.address.rpartition(".")[0] + ".255"))]
    yield "to a multicast address", [build(replace(syn(), destination="224.0.0.1"))]
    short = bytearray(build(syn()))
    short[20 + 12] = 0x40
    yield "a data offset of 16 octets", [bytes(short)]
    yield "a header that is cut", [truncated(build(syn()), 32)]
    for control in (Control.ACK, Control.FIN, Control(0), Control.RST, Control.SYN | Control.ACK):
        yield f"flags {int(control)} with a bad IP option", [build(syn(control=control, ip_options=b"\x44\x03\0\0"))]
    udp = struct.pack("!HHHH", 2000, port, 8, 0)
    yield "UDP", [ip4(client.silent, bridge.address, socket.IPPROTO_UDP, udp)]
    quoted = build(packet_from(client, bridge.address, 2000))
    quoted = build(replace(parse(quoted), source=bridge.address, destination=client.silent, source_port=port))
    for kind, code in ((3, 3), (3, 4), (11, 0), (12, 0)):
        message = bytearray(struct.pack("!BBHI", kind, code, 0, 0) + quoted[:28])
        message[2:4] = struct.pack("!H", checksum(message))
        yield f"ICMP {kind}/{code}", [ip4(client.silent, bridge.address, socket.IPPROTO_ICMP, bytes(message))]
    for number, name in ((0, "hop-by-hop"), (60, "destination")):
        for kind in (0x1E, 0x5E, 0x9E, 0xDE):
            body = bytes([0, kind, 4, 0, 0, 0, 0])
            yield f"IPv6 {name} option {kind:#x}", [build(syn6(extensions=((number, body),)))]
    yield "IPv6 routing header", [build(syn6(extensions=((43, bytes([0, 9, 1, 0, 0, 0, 0])),)))]
    yield "IPv6 routing header at its end", [build(syn6(extensions=((43, bytes([0, 9, 0, 0, 0, 0, 0])),)))]
    yield "IPv6 atomic fragment", [build(syn6(extensions=((44, bytes([0, 0, 0, 0, 0, 0, 9])),)))]
    yield "IPv6 unknown header", [build(syn6(extensions=((253, bytes(7)),)))]
    yield "IPv6 hop limit 1", [build(syn6(ttl=1))]


def ip4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 datagram without options."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def truncated(datagram: bytes, size: int) -> bytes:
    """The first *size* octets of an IPv4 *datagram* without options, with a header that says so."""
    return ip4(socket.inet_ntoa(datagram[12:16]), socket.inet_ntoa(datagram[16:20]), datagram[9], datagram[20:size])


class Case(SynchronousTestCase):
    """A bridge host, a client host, and a bridge in some posture."""

    skip = needs_root
    timeout = 180
    posture = "filtered"

    def setUp(self) -> None:
        self.lab = lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.addresses = (self.bridge.address, self.bridge.address6)

    def hide(self) -> None:
        """Start the bridge, and wait until its line opens."""
        self.service = HiddenService(self.bridge, options={"posture": self.posture})
        self.addCleanup(self.service.close)
        alice = self.service.line("alice", time.time()).line
        self.fresh = iter(
            [
                token
                for epoch in (0, 1, -1)
                for token in tokens(alice.secret, alice.bridge_name, epoch_at(time.time()) + epoch, alice.n)
            ]
        )
        self.assertTrue(wait_for(self.opens), self.service.said)

    def opens(self, address: str | None = None) -> bool:
        return knock(self.client, address or self.bridge.address, 443, next(self.fresh)) == GREETING


class FilteredTests(Case):
    """Silence, to every segment that belongs to no accepted connection."""

    def setUp(self) -> None:
        super().setUp()
        self.bridge.run(["nft", "-f", "-"], DROPPED)
        self.hide()

    def scanned(self, *how: str) -> set[str]:
        """What nmap says of the hidden port and of the dropped one."""
        once = ("--max-retries", "0", "--max-rtt-timeout", "300ms")
        said = self.client.run(["nmap", "-n", "-Pn", *once, "-p", "443,444", *how]).stdout
        states = re.findall(r"^44[34]/tcp (\S+)", said, re.MULTILINE)
        self.assertEqual(len(states), 2, said)
        return set(states)

    def test_every_scan_sees_a_port_that_a_firewall_drops(self) -> None:
        """nmap's seven kinds, over both families."""
        for scan in ("-sS", "-sA", "-sF", "-sN", "-sX", "-sW", "-sM"):
            for more in ((self.bridge.address,), ("-6", self.bridge.address6)):
                with self.subTest(scan=scan, more=more):
                    self.assertEqual(len(self.scanned(scan, *more)), 1)
        self.assertEqual(self.scanned("-sS", self.bridge.address), {"filtered"})

    def test_no_probe_is_answered(self) -> None:
        """Whatever its control bits and options are."""
        for address in self.addresses:
            for name, how in MATRIX.items():
                with self.subTest(name=name, address=address):
                    self.assertIsNone(probe(self.client, address, 443, **{"patience": 0.1, **how}))

    def test_a_token_opens_and_the_connection_lives(self) -> None:
        """Both ways, to its end; and then it is silent again."""
        for address in self.addresses:
            self.assertTrue(self.opens(address))
            self.assertEqual(knock(self.client, address, 443, None, 0.5), "silence")

    def test_it_stays_silent_when_nobody_guards_it(self) -> None:
        """After a clean end and after a sudden one; the next bridge opens it again."""
        for sudden in (False, True):
            self.service.process.kill() if sudden else end([self.service.process])
            self.service.process.wait()
            for address in self.addresses:
                self.assertEqual(knock(self.client, address, 443, None, 0.5), "silence")
            self.service.start()
            self.assertTrue(wait_for(self.opens), self.service.said)

    def test_knock_lines_do_not_open_it_to_others(self) -> None:
        """With a judge, what it refuses is dropped."""
        with self.service.keyring() as keyring:
            keyring.add("carol", expires=None, now=time.time(), scheme=Scheme.KNOCK)
        self.assertTrue(wait_for(lambda: "queue" in self.bridge.run(["nft", "list", "ruleset"]).stdout))
        self.assertEqual(knock(self.client, self.bridge.address, 443, None, 0.5), "silence")
        self.assertTrue(wait_for(self.opens))

    def test_other_ports_are_let_be(self) -> None:
        """Closed ones answer, and so does what this host only forwards."""
        self.assertEqual(knock(self.client, self.bridge.address, 445, None), "refused")


class OddCase(Case):
    """Beside a port that a plain input chain drops, on a host that answers every odd probe."""

    def setUp(self) -> None:
        super().setUp()
        self.bridge.run(["nft", "-f", "-"], DROPPED)
        for name in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
            self.bridge.sysctl(name, 0)
        self.strangers = (socket.inet_aton(self.client.silent), socket.inet_pton(socket.AF_INET6, self.client.silent6))

    def answers(self, datagrams: list[bytes]) -> list[tuple[int, ...]]:
        """What the bridge sends when *datagrams* have come from the wire: the essence of each."""
        mark = os.urandom(16)
        with Capture(self.bridge) as capture:
            for datagram in [*datagrams, echo_request(packet_from(self.client, self.bridge.address, 9), mark)]:
                inject(self.bridge, self.lab.hub, datagram)
            capture.wait_seen(lambda seen: seen.outgoing and mark in seen.raw, 5)
            time.sleep(0.01)
            return [
                essence(seen.raw)
                for seen in capture.seen
                if seen.outgoing and mark not in seen.raw and any(to in seen.raw[16:40] for to in self.strangers)
            ]

    def assert_as_dropped(self) -> None:
        """Each odd probe of the hidden port is answered as the same of the dropped one; some the kernel answers."""
        answered = 0
        for (name, hidden), (_, dropped) in zip(
            oddities(self.client, self.bridge, 443), oddities(self.client, self.bridge, 444), strict=True
        ):
            with self.subTest(name=name):
                expected = self.answers(dropped)
                answered += bool(expected)
                self.assertEqual(self.answers(hidden), expected, name)
        self.assertGreater(answered, 3)


class JudgedTests(OddCase):
    """A line of scheme `knock`, and a judge that takes its time."""

    def test_no_answer_waits_for_the_judge(self) -> None:
        """What the kernel answers before the input hook, such as a bad IP option, it answers though the judge hangs."""
        self.hide()
        with self.service.keyring() as keyring:
            keyring.add("carol", expires=None, now=time.time(), scheme=Scheme.KNOCK)
        self.assertTrue(wait_for(lambda: "judged" in self.bridge.run(["nft", "list", "ruleset"]).stdout))
        os.kill(self.service.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.service.process.pid, signal.SIGCONT)
        self.assert_as_dropped()


class InputHookTests(OddCase):
    """The rules of the posture alone."""

    def setUp(self) -> None:
        super().setUp()
        self.door = Door("::", 443, Posture.FILTERED)
        self.load(load(self.door, HIDDEN) + admit(self.door.table, [4711], 600))

    def load(self, text: str) -> None:
        self.bridge.run(["nft", "-f", "-"], text)

    def test_odd_probes_are_answered_as_by_a_port_that_the_firewall_drops(self) -> None:
        """Bad IP options and extension headers, fragments, short headers, ICMP errors."""
        self.assert_as_dropped()

    def test_other_ports_are_answered_as_ever(self) -> None:
        """The closed ones, oddly asked or not."""
        ports = [list(oddities(self.client, self.bridge, port)) for port in (445, 446)]
        here = [(name, self.answers(datagrams)) for name, datagrams in ports[0]]
        self.load(remove(self.door.table) + remove(posture_table(self.door)))
        for (name, told), (_, datagrams) in zip(here, ports[1], strict=True):
            self.assertEqual(told, self.answers(datagrams), name)

    def test_the_drop_is_never_absent(self) -> None:
        """Under a flood of SYNs, while the table of tokens is replaced and removed and the posture is loaded again."""
        stranger = threading.Thread(target=flood, args=(self.client, self.bridge.address, 443, 4.0))
        before = resets(self.bridge)
        stranger.start()
        steps = 0
        while stranger.is_alive():
            for text in (load(self.door, HIDDEN), rest(self.door), load_posture(self.door), remove(self.door.table)):
                self.load(text)
                steps += 1
        stranger.join()
        self.assertGreater(steps, 20)
        self.assertEqual(resets(self.bridge), before)


class RefusedTests(Case):
    """How many SYNs had no token."""

    posture = "closed"

    def test_they_are_counted(self) -> None:
        """One in `SAMPLE`, by chance, of those to the port; and `intact` is not disturbed."""
        self.hide()
        before = self.counted()
        flood(self.client, self.bridge.address, 444, 0.3)
        self.assertEqual(self.counted(), before)
        sent = flood(self.client, self.bridge.address, 443, 0.5)
        expected = sent / SAMPLE
        self.assertLess(abs(self.counted() - before - expected), 7 * expected**0.5)
        self.assertNotIn("reloading", "".join(self.service.said))

    def counted(self) -> int:
        listed = self.bridge.run(["nft", "list", "counter", "inet", "torknock-443", "refused"]).stdout
        [packets] = re.findall(r"packets (\d+)", listed)
        return int(packets)


class NoKnockTests(Case):
    """A line of scheme `knock`, where the kernel answers strangers: who judges a SYN delays the answer to it."""

    posture = "closed"

    def test_nothing_is_judged(self) -> None:
        """No SYN waits in a queue, the knock opens nothing, tokens do, the operator is told; with filtered it opens."""
        for host in (self.bridge, self.client):
            host.sysctl("net.ipv4.tcp_timestamps", 0)
        self.hide()
        with self.service.keyring() as keyring:
            secret = keyring.add("carol", expires=None, now=time.time(), scheme=Scheme.KNOCK).line.secret
        isn = knock_isn(secret, socket.inet_aton(self.bridge.address), 443, 0)
        self.assertTrue(wait_for(lambda: "scheme knock opens nothing" in "".join(self.service.said)))
        time.sleep(1)
        for word in ("queue", "mark", "judged"):
            self.assertNotIn(word, self.bridge.run(["nft", "list", "ruleset"]).stdout.lower())
        self.assertEqual(knock(self.client, self.bridge.address, 443, isn), "refused")
        self.assertTrue(self.opens())
        self.assertIn("scheme knock opens nothing", self.torknock("status", "--json"))
        self.assertIn("torknock setup bridge --posture filtered", self.line_add("dave", status=1))
        end([self.service.process])
        self.service.options["posture"] = "filtered"
        self.service.start()
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, isn) == GREETING))
        self.assertEqual(knock(self.client, self.bridge.address, 443, isn, 0.5), "silence")
        self.assertIn("scheme=knock", self.line_add("dave"))

    def line_add(self, name: str, status: int = 0) -> str:
        where = ("--address", f"{self.bridge.address}:443", "--fingerprint", "0" * 40)
        return self.torknock("line", "add", name, "--scheme", "knock", *where, status=status)

    def torknock(self, *words: str, status: int = 0) -> str:
        """What the operator's command says."""
        running = self.bridge.popen(
            [TORKNOCK, *words, "--keyring", str(self.service.state / "torknock")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        said: str = running.communicate()[0]
        self.assertEqual(running.returncode, status, said)
        return said


class DecoyTests(Case):
    """nginx on the port for strangers, the bridge for who has a line."""

    posture = "decoy"
    skip = needs_root or (None if shutil.which("nginx") else "nginx is missing")

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.directory.chmod(0o755)
        (self.directory / "index.html").write_text("a page for everybody\n")
        (self.directory / "nginx.conf").write_text(
            f"daemon off; pid {self.directory}/pid; error_log {self.directory}/error.log;\n"
            f"events {{}} http {{ access_log off; server {{ listen 443; listen [::]:443; root {self.directory}; }} }}\n"
        )
        self.nginx = self.start()
        self.hide()

    def start(self) -> subprocess.Popen[bytes]:
        nginx = self.bridge.popen(["nginx", "-p", str(self.directory), "-c", str(self.directory / "nginx.conf")])
        self.addCleanup(end, [nginx])
        self.assertTrue(wait_for(lambda: self.page() == "a page for everybody\n"))
        return nginx

    def page(self, address: str | None = None) -> str:
        """What a stranger's browser gets."""
        host = address or self.bridge.address
        with contextlib.suppress(urllib.error.URLError, ConnectionError), self.client.enter():
            where = f"http://[{host}]:443/" if ":" in host else f"http://{host}:443/"
            return str(urllib.request.urlopen(where, timeout=5).read(), "ascii")  # noqa: S310
        return "nothing"

    def test_strangers_get_the_page_and_the_line_gets_the_bridge(self) -> None:
        """Both at once, over both families; nmap sees nginx."""
        for address in self.addresses:
            with self.client.enter():
                stranger = socket.create_connection((address, 443), 5)
            with stranger:
                self.assertTrue(self.opens(address))
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.assertIn(b"nginx", stranger.recv(4096))
            self.assertEqual(self.page(address), "a page for everybody\n")
        seen = self.client.run(["nmap", "-n", "-Pn", "-sV", "-p", "443", self.bridge.address]).stdout
        self.assertRegex(seen, "443/tcp open .*nginx")

    def test_each_outlives_the_other(self) -> None:
        """A new nginx finds its port; when the bridge ends, nginx answers everyone."""
        end([self.nginx])
        self.assertEqual(knock(self.client, self.bridge.address, 443, None), "refused")
        self.assertTrue(self.opens())
        self.start()
        self.assertTrue(self.opens())
        end([self.service.process])
        self.assertEqual(self.page(), "a page for everybody\n")
        self.assertNotEqual(knock(self.client, self.bridge.address, 443, next(self.fresh), 1.0), GREETING)
