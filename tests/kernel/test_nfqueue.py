"""Tests of the packet gate with real packets: knocks of scheme `knock` as raw SYNs, and everything that is none."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import struct
import time
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.kernel.test_postures import DROPPED
from tests.support.bridge import GREETING, TORKNOCK, HiddenService, knock
from tests.support.capture import Capture, Control, Packet, build, checksum
from tests.support.netns import Host, Lab
from tests.support.packets import MATRIX, exchange, flood, fragments, packet_from, probe, reply, send
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.knock import integrity_code, isn
from torknock.protocol.token import epoch_at, tokens

PAYLOAD = b"the first octets that a client says"
PATIENCE = 1.0
SILENCE = 0.3
"""Seconds in which a port that does not answer has not answered."""


def timestamps(tsval: int) -> bytes:
    """The TCP option, aligned (RFC 7323 appendix A)."""
    return struct.pack("!BBBBII", 1, 1, 8, 10, tsval, 0)


def knocking(host: Host, target: str, line: Line, tsval: int | None, payload: bytes = b"", **fields: Any) -> Packet:
    """The SYN of *line* to port 443 of *target*, from an address for which *host* does not answer."""
    address = socket.inet_pton(socket.AF_INET6 if ":" in target else socket.AF_INET, target)
    code = integrity_code(line.secret, payload) if line.integrity else None
    options = b"" if tsval is None else timestamps(tsval)
    return packet_from(
        host, target, 443, **{"seq": isn(line.secret, address, 443, tsval or 0, code), "options": options, **fields}
    )


class Peer:
    """A TCP client made of raw segments: connects with *syn*, sends *said*, and tells what became of it."""

    def __init__(self, host: Host, syn: Packet) -> None:
        self._host, self._syn = host, syn
        self._capture = Capture(host)
        send(host, build(syn))
        self.answer = self._wait(lambda packet: bool(packet.control & (Control.SYN | Control.RST)))

    def say(self, octets: bytes, control: Control = Control.PSH | Control.ACK) -> None:
        """Send *octets* behind the SYN."""
        options = timestamps(((self._syn.tsval or 0) + 1) % 2**32) if self._syn.tsval is not None else b""
        seq, ack = (self._syn.seq + 1) % 2**32, (self.answer.seq + 1) % 2**32
        send(self._host, build(replace(self._syn, control=control, payload=octets, seq=seq, ack=ack, options=options)))

    @property
    def heard(self) -> bytes:
        """All that the other side has said so far."""
        segments = {got.seq: got.payload for got in self._capture.tcp(self._syn.source_port) if got.source_port == 443}
        return b"".join(segments[seq] for seq in sorted(segments))

    def end(self, timeout: float = 10.0) -> Control:
        """The flags of what ends the connection, or of the first that is said."""
        ends = Control.RST | Control.FIN
        return self._wait(lambda got: bool(got.payload or got.control & ends), timeout).control

    def _wait(self, wanted: Any, timeout: float = 10.0) -> Packet:
        back = (self._syn.destination, 443, self._syn.source_port)
        return self._capture.wait(
            lambda got: (got.source, got.source_port, got.destination_port) == back and wanted(got), timeout
        )

    def close(self) -> None:
        self._capture.close()


class KnockTestCase(SynchronousTestCase):
    """A filtered bridge host with `torknock server` on 0.0.0.0:443 and a knock line, and a client host."""

    def setUp(self) -> None:
        lab = Lab(offloads=False)
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.bridge.run(["nft", "-f", "-"], DROPPED)
        self.service = HiddenService(self.bridge, options={"posture": "filtered"})
        self.addCleanup(self.service.close)
        self.tsvals = iter(range(secrets.randbits(31), 2**32))
        self.line = self.issue("alice")
        self.assertTrue(wait_for(self.stands), self.service.said)

    def issue(self, name: str, integrity: int = 0, secret: bytes | None = None) -> Line:
        with self.service.keyring() as keyring:
            return keyring.add(
                name, scheme=Scheme.KNOCK, integrity=integrity, secret=secret, expires=None, now=time.time()
            ).line

    def stands(self) -> bool:
        return "chain judged" in self.bridge.run(["nft", "list", "ruleset"]).stdout and self.opens(self.knock())

    def knock(self, line: Line | None = None, target: str | None = None, **how: Any) -> Packet:
        how.setdefault("tsval", next(self.tsvals))
        return knocking(self.client, target or self.bridge.address, line or self.line, **how)

    def answer(self, packet: Packet, **how: Any) -> Control:
        seen = exchange(self.client, packet, patience=PATIENCE, **how)
        return Control(0) if seen is None or seen.packet is None else seen.packet.control

    def opens(self, packet: Packet) -> bool:
        return self.answer(packet) == Control.SYN | Control.ACK

    def assert_closed(self, packet: Packet) -> None:
        """It is answered, if at all, as by the port beside it."""
        beside = replace(packet, destination_port=444, source_port=packet.source_port - 10_000)
        answers = [exchange(self.client, one, patience=SILENCE) for one in (packet, beside)]
        self.assertEqual(*[seen and reply(one, seen) for one, seen in zip((packet, beside), answers, strict=True)])

    @property
    def addresses(self) -> tuple[str, str]:
        return self.bridge.address, self.bridge.address6


class KnockTests(KnockTestCase):
    """Who gets in."""

    def test_a_knock_opens_once(self) -> None:
        """IPv4 and IPv6, with a TSval and without; the same SYN from elsewhere is refused, another knock is not."""
        for target in self.addresses:
            for tsval in (next(self.tsvals), None):
                with self.subTest(target=target, tsval=tsval):
                    syn = self.knock(target=target, tsval=tsval)
                    self.assertTrue(self.opens(syn))
                    self.assert_closed(replace(syn, source_port=syn.source_port + 5000))
            self.assertTrue(self.opens(self.knock(target=target)))

    def test_a_knock_carries_a_connection(self) -> None:
        """What is behind the door greets, over IPv4 and IPv6."""
        for target in self.addresses:
            peer = Peer(self.client, self.knock(target=target))
            self.addCleanup(peer.close)
            peer.say(b"", Control.ACK)
            self.assertTrue(wait_for(lambda: peer.heard == GREETING))  # noqa: B023

    def test_a_wrong_knock_is_answered_as_by_the_port_beside_it(self) -> None:
        """One bit of the ISN, another TSval, and none at all."""
        for target in self.addresses:
            right = self.knock(target=target)
            self.assert_closed(replace(right, seq=right.seq ^ 1))
            self.assert_closed(replace(right, options=timestamps(next(self.tsvals))))
            self.assert_closed(replace(right, options=b""))
            self.assertTrue(self.opens(right))

    def test_every_probe_is_answered_as_by_the_port_beside_it(self) -> None:
        """Each field of each answer, over IPv4 and IPv6."""
        for target in self.addresses:
            for name, how in MATRIX.items():
                with self.subTest(name=name, target=target):
                    how = {"patience": SILENCE, **how}
                    self.assertEqual(*[probe(self.client, target, port, **how) for port in (443, 444)])

    def test_a_token_line_shares_the_port(self) -> None:
        """Its tokens match in the kernel."""
        bob = self.service.line("bob", time.time()).line
        fresh = iter(tokens(bob.secret, bob.bridge_name, epoch_at(time.time()), bob.n))
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, next(fresh)) == GREETING))
        self.assertTrue(self.opens(self.knock()))

    def test_a_revoked_line_stops_opening(self) -> None:
        """Within 2 s; the last knock line gone, nothing is queued any more."""
        self.bridge.run([TORKNOCK, "line", "revoke", "alice", "--keyring", str(self.service.state / "torknock")])
        time.sleep(2)
        self.assert_closed(self.knock())
        self.assertTrue(wait_for(lambda: "0x40000000" not in self.bridge.run(["nft", "list", "ruleset"]).stdout))

    def test_nobody_is_locked_out_by_wrong_syns_in_their_name(self) -> None:
        """Thousands from one source, which the judge refuses; then a knock of that source opens."""
        self.assertGreater(flood(self.client, self.bridge.address, 443, 0.3), 1_000)
        self.assertTrue(wait_for(lambda: self.opens(self.knock())))

    def test_misses_are_one_alarm(self) -> None:
        """Judged or not, they are counted and warned of in one place: log and status agree."""
        sent = flood(self.client, self.bridge.address, 443, 0.5)
        self.assertGreater(sent, 1_000)
        keyring = str(self.service.state / "torknock")
        told = json.loads(self.bridge.run([TORKNOCK, "status", "--json", "--keyring", keyring]).stdout)
        self.assertGreaterEqual(told["refused"], 1_000)
        self.assertEqual([each["trouble"] for each in told["warnings"]], ["guessing"])
        alarms = [said for said in self.service.said if re.search("guess|brute force", said)]
        self.assertEqual(len(alarms), 1, alarms)
        self.assertIn(f"possible brute force: {told['refused']:,} SYNs", alarms[0])

    def test_a_flush_by_somebody_else_is_repaired(self) -> None:
        """All of it: our table, and the rule that queues."""
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(self.stands))

    def test_what_opened_stays_spent_over_a_new_start(self) -> None:
        """A successor of a killed bridge refuses what the predecessor let in."""
        syn = self.knock()
        self.assertTrue(self.opens(syn))
        self.service.process.send_signal(signal.SIGKILL)
        self.service.process.wait()
        self.assert_closed(self.knock())
        self.service.start()
        self.assertTrue(wait_for(self.stands))
        self.assert_closed(replace(syn, source_port=syn.source_port + 5000))

    def test_a_stopped_judge_leaves_the_port_closed(self) -> None:
        """What waits for it is not admitted; once its queue is full the kernel answers again."""
        os.kill(self.service.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.service.process.pid, signal.SIGCONT)
        self.assertFalse(self.opens(self.knock()))
        flood(self.client, self.bridge.address, 443, 0.5)
        self.assert_closed(self.knock(target=self.bridge.address6))

    def test_rules_prints_what_is_loaded(self) -> None:
        """The tables as nft prints them, and the rules of iptables that go with them."""
        told = self.bridge.run([TORKNOCK, "rules"]).stdout
        gate, posture = (
            self.bridge.run(["nft", "--stateless", "--terse", "list", "table", "inet", name]).stdout
            for name in ("torknock-443", "torknock-443-posture")
        )
        self.assertIn(gate, told)
        self.assertIn(posture, told)
        if "queue" not in gate:
            rest = told.replace(gate, "").replace(posture, "").splitlines()
            self.assertEqual([rule.split()[0] for rule in rest], ["iptables-nft", "ip6tables-nft"])
            self.assertTrue(all("-j NFQUEUE" in rule for rule in rest))

    def test_the_end_leaves_silence_alone(self) -> None:
        """SIGTERM: nothing is queued, marked or let in any more; the port stays silent."""
        self.service.process.terminate()
        self.assertEqual(self.service.process.wait(10), 0)
        left = self.bridge.run(["nft", "list", "ruleset"]).stdout
        for word in ("queue", "NFQUEUE", "mark", "tproxy"):
            self.assertNotIn(word, left)
        self.assert_closed(self.knock())


class BadInputTests(KnockTestCase):
    """SYNs that an adversary wrote."""

    def alive(self) -> None:
        """Nothing broke, and nobody waits."""
        self.assertTrue(self.opens(self.knock()))
        self.assertIsNone(self.service.process.poll())

    def test_a_wrong_checksum_is_silence(self) -> None:
        """As on any port; the knock is not spent by it."""
        for target in self.addresses:
            syn = self.knock(target=target)
            self.assertEqual(self.answer(syn, bad_checksum=True), Control(0))
            self.assertTrue(self.opens(syn))

    def test_options_that_end_early(self) -> None:
        """A timestamp that is cut or has a wrong length is none, and so the knock is none."""
        for options in ("080affff", "0808ffff ffff0000", "03080aff", "02ff0101", "08000000", "01010101 01010108"):
            with self.subTest(options=options):
                self.assert_closed(self.knock(options=bytes.fromhex(options)))
        self.alive()

    def test_fragments_are_judged_as_one(self) -> None:
        """The kernel puts them together before a program sees them: a part opens nothing, the whole is one knock."""
        for change, expected in ((0, [Control.SYN | Control.ACK]), (1, [])):
            right = self.knock(ip_flags=0)
            syn = replace(right, seq=right.seq ^ change)
            for octets in fragments(build(syn), 16)[:-1]:
                send(self.client, octets)
            with Capture(self.client) as capture:
                self.alive()
                self.assertEqual([got for got in capture.tcp(syn.source_port) if got.source_port == 443], [])
                send(self.client, fragments(build(syn), 16)[-1])
                self.alive()
                answers = [got.control for got in capture.tcp(syn.source_port) if got.source_port == 443]
                self.assertEqual(answers[:1], expected)

    def test_whatever_comes_nobody_stalls(self) -> None:
        """Octets of a right knock, cut, changed and fragmented at any place: closed, and the next knock opens."""

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def attempt(data: st.DataObject) -> None:
            octets = bytearray(build(self.knock(target=data.draw(st.sampled_from(self.addresses)))))
            for _ in range(data.draw(st.integers(1, 6))):
                octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
            if octets[0] >> 4 not in (4, 6):
                return
            if octets[0] >> 4 == 4:
                octets[10:12] = bytes(2)
                octets[10:12] = struct.pack("!H", checksum(octets[: max(20, (octets[0] & 15) * 4)]))
            send(self.client, bytes(octets[: data.draw(st.integers(20, len(octets)))]))

        attempt()
        self.alive()


class IntegrityTests(KnockTestCase):
    """A line that covers the first octets."""

    def setUp(self) -> None:
        super().setUp()
        self.covering = self.issue("carol", len(PAYLOAD))
        self.assertTrue(wait_for(lambda: self.opens(self.knock(self.covering, payload=PAYLOAD))))

    def peer(self, **how: Any) -> Peer:
        peer = Peer(self.client, self.knock(self.covering, payload=PAYLOAD, **how))
        self.addCleanup(peer.close)
        self.assertEqual(peer.answer.control, Control.SYN | Control.ACK)
        return peer

    def test_what_was_announced_is_passed_on(self) -> None:
        """With what follows it."""
        for target in self.addresses:
            peer = self.peer(target=target)
            peer.say(PAYLOAD + b" and more")
            wait_for(lambda: len(peer.heard) >= len(GREETING + PAYLOAD + b" and more"))  # noqa: B023
            self.assertEqual(peer.heard, GREETING + PAYLOAD + b" and more")

    def test_anything_else_is_reset(self) -> None:
        """One octet differs: RST, no FIN."""
        peer = self.peer()
        peer.say(PAYLOAD[:-1] + b"?")
        self.assertTrue(Control.RST & peer.end())
        self.assertEqual(peer.heard, b"")

    def test_too_little_is_reset(self) -> None:
        """The client ends before all is there."""
        peer = self.peer()
        peer.say(PAYLOAD[:-1], Control.ACK | Control.FIN)
        self.assertTrue(Control.RST & peer.end())
        self.assertEqual(peer.heard, b"")

    def test_too_late_is_reset(self) -> None:
        """A client that says nothing is not waited for for ever."""
        peer = self.peer()
        peer.say(PAYLOAD[:-1], Control.ACK)
        self.assertTrue(Control.RST & peer.end(40))
        self.assertEqual(peer.heard, b"")
