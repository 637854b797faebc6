"""The laboratory itself: hosts, captures, probes. What other tests conclude rests on it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.capture import DF, Capture, Control, NotTCP, Packet, build, checksum, parse
from tests.support.netns import CommandFailed, Lab
from tests.support.packets import LINUX_SYN_OPTIONS, MATRIX, Reply, flood, packet_from, probe, replay, send

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

words = st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
port_numbers = st.integers(0, 2**16 - 1)
tcp_fields = {
    "source_port": port_numbers, "destination_port": port_numbers, "window": port_numbers, "urgent": port_numbers,
    "seq": st.integers(0, 2**32 - 1), "ack": st.integers(0, 2**32 - 1), "control": st.integers(0, 255).map(Control),
    "options": words, "payload": st.binary(max_size=64), "ttl": st.integers(0, 255), "tos": st.integers(0, 255),
}  # fmt: skip
addresses4, addresses6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda a: socket.inet_ntop(
    socket.AF_INET6, a.packed))  # fmt: skip
extension_bodies = st.integers(0, 3).flatmap(
    lambda n: st.binary(min_size=8 * n + 6, max_size=8 * n + 6).map(lambda data: bytes([n]) + data)
)
packets4 = st.builds(
    Packet, addresses4, addresses4, **tcp_fields, identification=port_numbers, ip_options=words,
    ip_flags=st.sampled_from([0, DF, 4, 4 | DF]),
)  # fmt: skip
packets6 = st.builds(
    Packet, addresses6, addresses6, **tcp_fields, flow_label=st.integers(0, 2**20 - 1), ip_flags=st.just(0),
    extensions=st.lists(st.tuples(st.sampled_from([0, 43, 60]), extension_bodies), max_size=3).map(tuple),
)  # fmt: skip


class PacketTests(SynchronousTestCase):
    """`build` and `parse`."""

    @given(packets4 | packets6)
    def test_what_is_built_is_parsed(self, packet: Packet) -> None:
        """Every field survives, and the length is as said."""
        octets = build(packet)
        self.assertEqual(parse(octets), packet)
        self.assertEqual(len(octets), packet.total_length)

    @given(packets4 | packets6)
    def test_padding_is_left_out(self, packet: Packet) -> None:
        """A short frame on Ethernet is filled up; that is not payload."""
        self.assertEqual(parse(build(packet) + bytes(6)), packet)

    @given(st.binary(max_size=120) | (packets4 | packets6).map(build).flatmap(
        lambda octets: st.integers(0, len(octets)).map(lambda cut: octets[:cut])))  # fmt: skip
    def test_any_octets_parse_or_are_not_tcp(self, octets: bytes) -> None:
        """No other error comes out, whatever goes in."""
        with contextlib.suppress(NotTCP):
            parse(octets)

    def test_a_syn_byte_for_byte(self) -> None:
        """A SYN whose two checksums were added up by hand."""
        packet = Packet("198.18.1.2", "198.18.2.2", 1000, 443, seq=0x01020304, window=0x0400)
        self.assertEqual(
            build(packet).hex(" ", 4),
            "45000028 00004000 4006aba7 c6120102 c6120202 03e801bb 01020304 00000000 50020400 13110000",
        )

    def test_a_bad_checksum_is_bad(self) -> None:
        """Of the same packet, it changes the two octets of TCP's checksum alone."""
        packet = Packet("198.18.1.2", "198.18.2.2", 1000, 443)
        good, bad = build(packet), build(packet, bad_checksum=True)
        self.assertEqual([at for at in range(40) if good[at] != bad[at]], [36, 37])

    def test_checksum_of_the_rfc(self) -> None:
        """The example of RFC 1071 §3: the sum is ddf2."""
        self.assertEqual(checksum(bytes.fromhex("0001f203f4f5f6f7")), 0xDDF2 ^ 0xFFFF)

    def test_options_are_told_apart(self) -> None:
        """Kinds in their order, and the timestamp."""
        packet = Packet("::1", "::2", 1, 2, options=LINUX_SYN_OPTIONS)
        self.assertEqual([kind for kind, _ in packet.option_list], [2, 4, 8, 1, 3])
        self.assertEqual(packet.tsval, 0)
        broken = replace(packet, options=b"\x01\x02\x09\x00")
        self.assertEqual(broken.option_list, ((1, b""),))


class LabTests(SynchronousTestCase):
    """Hosts around a router."""

    skip = needs_root

    def traces(self) -> set[str]:
        """What this process has on the machine: namespaces, and wires in the machine's own namespace."""
        names = set(os.listdir("/run/netns")) if Path("/run/netns").exists() else set()
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        wires = {line.split()[1] for line in links.splitlines() if " veth" in line or "to-" in line}
        return {name for name in names if name.startswith(f"tk{os.getpid()}")} | wires

    def test_hosts_reach_each_other(self) -> None:
        """TCP over IPv4 and over IPv6 crosses the hub, between any two hosts."""
        with Lab() as lab:
            hosts = [lab.host(name) for name in ("bridge", "client", "probe")]
            for here in hosts:
                for there in hosts:
                    for family, address in ((socket.AF_INET, there.address), (socket.AF_INET6, there.address6)):
                        with there.call(socket.create_server, (address, 0), family=family) as listener:
                            port = listener.getsockname()[1]
                            with here.call(socket.create_connection, (address, port), 10) as connection:
                                peer = connection.getsockname()[0]
                    self.assertEqual(peer, here.address6)

    def test_a_host_is_made_once(self) -> None:
        """The same name is the same host."""
        with Lab() as lab:
            self.assertIs(lab.host("bridge"), lab.host("bridge"))

    def test_nothing_is_left(self) -> None:
        """After an error in the block, with a program still running and another's child orphaned."""
        before = self.traces()
        with self.assertRaises(ZeroDivisionError), Lab() as lab:
            host = lab.host("client")
            child = host.popen(["sleep", "600"])
            host.run(["sh", "-c", "sleep 600 >/dev/null 2>&1 &"])
            orphans = [pid for pid in host.pids() if pid != child.pid]
            _ = 1 / 0
        self.assertEqual(self.traces(), before)
        self.assertEqual(len(orphans), 1)
        self.assertIsNotNone(child.returncode)
        lab.close()

    def test_two_labs_do_not_meet(self) -> None:
        """Tests that run side by side have names of their own."""
        with Lab() as one, Lab() as other:
            self.assertNotEqual(one.host("bridge").name, other.host("bridge").name)

    def test_commands_fail_loudly(self) -> None:
        """The error says what was run and what it answered."""
        with Lab() as lab:
            failure = self.assertRaises(CommandFailed, lab.host("client").run, ["ip", "link", "set", "nonesuch", "up"])
        self.assertIn("nonesuch", str(failure))

    def test_only_the_calling_thread_enters(self) -> None:
        """Another thread stays where it was, and the caller comes back, also after an error."""
        here = Path("/proc/thread-self/ns/net").readlink
        with Lab() as lab:
            outside = here()
            seen: list[Path] = []
            inside = threading.Event()

            def watch() -> None:
                inside.wait()
                seen.append(here())

            watcher = threading.Thread(target=watch)
            watcher.start()
            with self.assertRaises(ZeroDivisionError), lab.host("client").enter():
                self.assertNotEqual(here(), outside)
                inside.set()
                watcher.join()
                _ = 1 / 0
        self.assertEqual([here(), *seen], [outside, outside])

    def test_sysctl_is_the_namespaces(self) -> None:
        """A setting changes in one host and in no other."""

        def ttl() -> str:
            return Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip()

        with Lab() as lab:
            lab.host("bridge").sysctl("net.ipv4.ip_default_ttl", 99)
            self.assertEqual((lab.host("bridge").call(ttl), lab.host("client").call(ttl)), ("99", "64"))


class WireTests(SynchronousTestCase):
    """Captures and probes, in one laboratory."""

    skip = needs_root

    def setUp(self) -> None:
        """A bridge that listens on one port, over IPv4 and IPv6."""
        self.lab = Lab(offloads=False)
        self.addCleanup(self.lab.close)
        self.bridge, self.attacker = self.lab.host("bridge"), self.lab.host("probe")
        self.targets = (self.bridge.address, self.bridge.address6)
        for family, address in zip((socket.AF_INET, socket.AF_INET6), self.targets, strict=True):
            listener = self.bridge.call(socket.create_server, (address, 443), family=family)
            self.addCleanup(listener.close)

    def probe(self, port: int, name: str, six: bool = False) -> Reply | None:
        """What the bridge's *port* answers to the probe of that name."""
        return probe(self.attacker, self.targets[six], port, **MATRIX[name])

    def test_a_closed_port_answers_as_measured(self) -> None:
        """The column "closed": RST and ACK where the probe had no ACK, RST alone where it had; DSCP echoed."""
        reset = Reply(Control.RST | Control.ACK, 63, 0, DF, 0, False, "0", "probe end", 0, 40)
        reset_of_ack = replace(reset, control=Control.RST, seq_rule="probe ack", ack_rule="0")
        for name, fields in MATRIX.items():
            expected: Reply | None = reset_of_ack if fields["control"] & Control.ACK else reset
            if name.endswith("dscp") and expected:
                expected = replace(expected, tos=0x48)
            if name in ("RST", "bad checksum"):
                expected = None
            self.assertEqual(self.probe(444, name), expected, name)
            expected6 = expected and replace(expected, ip_flags=0, flow_labelled=True, total_length=60)
            self.assertEqual(self.probe(444, name, six=True), expected6, name)

    def test_an_open_port_is_silent_where_a_closed_one_is_not(self) -> None:
        """The column "LISTEN": SYN/ACK to a SYN, silence to FIN, NULL, XMAS, URG and SYN/FIN, else as closed."""
        for six in (False, True):
            for name in ("FIN", "NULL", "XMAS", "URG", "SYN/FIN"):
                self.assertIsNone(self.probe(443, name, six), name)
            for name in ("ACK", "ACK dscp", "Maimon", "SYN/ACK", "PSH/ACK data"):
                self.assertEqual(self.probe(443, name, six), self.probe(444, name, six), name)
            answer = self.probe(443, "SYN", six)
            assert answer is not None
            self.assertEqual(answer.control, Control.SYN | Control.ACK)
            self.assertEqual(answer.option_kinds, (2, 4, 8, 1, 3))

    def test_nft_reject_is_told_from_a_closed_port(self) -> None:
        """What the prober is for: nftables' reset has DSCP 0, and over IPv6 no flow label."""
        rules = "table inet t { chain c { type filter hook input priority 0; tcp dport 445 reject with tcp reset; }; }"
        self.bridge.run(["nft", rules])
        self.addCleanup(self.bridge.run, ["nft", "delete table inet t"])
        self.assertEqual(self.probe(445, "SYN"), self.probe(444, "SYN"))
        self.assertNotEqual(self.probe(445, "SYN dscp"), self.probe(444, "SYN dscp"))
        self.assertNotEqual(self.probe(445, "SYN", six=True), self.probe(444, "SYN", six=True))

    def test_an_icmp_error_is_no_silence(self) -> None:
        """A firewall that rejects with ICMP (3: unreachable, 13: prohibited) is seen to."""
        rules = "table ip t { chain c { type filter hook input priority 0; tcp dport 446 reject with icmp 13; }; }"
        self.bridge.run(["nft", rules])
        self.addCleanup(self.bridge.run, ["nft", "delete table ip t"])
        answer = self.probe(446, "SYN")
        self.assertEqual(answer and answer.icmp, (3, 13))

    def test_header_options_arrive(self) -> None:
        """IP options and an extension header pass the hub and the port answers."""
        self.assertIsNotNone(probe(self.attacker, self.bridge.address, 443, ip_options=b"\x01\x01\x01\x00"))
        destination_options = ((60, bytes([0, 1, 4, 0, 0, 0, 0])),)
        self.assertIsNotNone(probe(self.attacker, self.bridge.address6, 443, extensions=destination_options))

    def test_what_is_sent_is_captured(self) -> None:
        """Octet for octet at the sender; at the receiver with one hop less; and good checksums are seen to be good."""
        for target in self.targets:
            fields = {"options": LINUX_SYN_OPTIONS, "payload": b"odd", "window": 4321, "tos": 8}
            packet = packet_from(self.attacker, target, 9, **fields)
            with Capture(self.attacker) as near, Capture(self.bridge) as far:
                send(self.attacker, build(packet))
                sent = near.wait_seen(lambda seen: seen.outgoing and seen.packet is not None)
                came = far.wait(lambda packet: packet.opens)
                reset = far.wait_seen(lambda seen: seen.packet is not None and bool(seen.packet.control & Control.RST))
            self.assertEqual(sent.raw, build(packet))
            self.assertEqual(came, replace(packet, ttl=packet.ttl - 1))
            self.assertTrue(sent.checksum_good and reset.checksum_good and reset.outgoing)
            self.assertGreaterEqual(reset.time_ns, sent.time_ns)

    def test_a_handshake_is_captured_in_order(self) -> None:
        """On the hub's wire, as a censor would see it; after `stop` nothing is added."""
        to_bridge = (self.bridge.address, 443)
        with (
            Capture(self.lab.hub, self.bridge.hub_interface) as capture,
            self.attacker.call(socket.create_connection, to_bridge, 10) as connection,
        ):
            port = connection.getsockname()[1]
            capture.wait(lambda packet: packet.control == Control.ACK)
        seen = capture.tcp(port)
        syn_ack = Control.SYN | Control.ACK
        self.assertEqual([packet.control for packet in seen[:3]], [Control.SYN, syn_ack, Control.ACK])
        self.assertEqual((seen[1].ack, seen[2].ack), ((seen[0].seq + 1) % 2**32, (seen[1].seq + 1) % 2**32))
        self.assertEqual((capture.tcp(port), capture.dropped), (seen, 0))

    def test_a_captured_syn_is_replayed(self) -> None:
        """The same SYN from elsewhere opens a plain listener again, and the same one from the same address too."""
        client = self.lab.host("client")
        with Capture(client) as capture:
            client.call(socket.create_connection, (self.bridge.address, 443), 10).close()
            syn = capture.wait(lambda packet: packet.opens)
        answer = replay(self.attacker, syn)
        self.assertEqual(answer and answer.control, Control.SYN | Control.ACK)
        with Capture(self.bridge) as bridge:
            send(client, build(syn))
            again = bridge.wait(lambda packet: packet.opens)
        self.assertEqual((again.seq, again.source, again.options), (syn.seq, syn.source, syn.options))

    def test_a_flood_is_made_of_good_segments(self) -> None:
        """Each is counted by the kernel and answered with a reset; sources and ISNs differ, checksums are right."""
        for target in self.targets:
            with Capture(self.bridge) as capture:
                sent = flood(self.attacker, target, 9, 0.0, batch=256)
                capture.wait(lambda _: len(capture.tcp(9)) >= 512)
            syns = [seen.packet for seen in capture.seen if seen.packet and seen.packet.opens and seen.checksum_good]
            self.assertEqual((sent, len(syns), len(capture.tcp(9))), (256, 256, 512))
            self.assertGreater(len({(syn.seq, syn.source_port) for syn in syns}), 250)

    def test_a_dead_sender_is_an_error(self) -> None:
        """An address that is none fails at once, not in a thread that nobody hears."""
        self.assertRaises(OSError, flood, self.attacker, "198.18.1", 9, 0.0)
