"""Tests of the ruleset alone with real packets: no transport, and hidden listeners that nobody accepts from."""

from __future__ import annotations

import os
import secrets
from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from tests.support.capture import Control
from tests.support.netns import CommandFailed, Lab
from tests.support.packets import exchange, packet_from, source_port
from tests.support.race import syn_acks
from torknock.privileged.gate import listeners
from torknock.protocol.door import Door, Posture
from torknock.service.posture_table import posture_listing, posture_table
from torknock.service.ruleset import HiddenPorts, Judging, admit, listing, load, withdraw

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

OPENS, CLOSED = Control.SYN | Control.ACK, Control.RST | Control.ACK
RACES = 400


class RulesetTests(SynchronousTestCase):
    """A bridge host and two others."""

    skip = needs_root
    timeout = 120

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.hosts = lab.host("bridge"), (lab.host("one"), lab.host("other"))
        with self.bridge.enter():
            listening = listeners.hidden_listeners("0.0.0.0")  # noqa: S104  what is hidden is every address
        for each in listening:
            self.addCleanup(each.close)
        self.hidden = listeners.hidden_ports(listening)
        self.door = Door("::", 443)
        self.tokens = [1 + secrets.randbelow(2**32 - 1) for _ in range(RACES)]
        self.nft(load(self.door, self.hidden) + admit(self.door.table, self.tokens, 600))

    def nft(self, text: str) -> None:
        self.bridge.run(["nft", "-f", "-"], text)

    def answer(self, isn: int, port: int = 443, **fields: int) -> Control:
        """The flags of what answers a SYN with the ISN *isn*."""
        seen = exchange(self.hosts[0], packet_from(self.hosts[0], self.bridge.address, port, seq=isn, **fields))
        return Control(0) if seen is None or seen.packet is None else seen.packet.control

    def test_two_copies_at_once_get_one_syn_ack(self) -> None:
        """From two hosts, on two processors: never two, and never none."""
        self.bridge.sysctl("net.ipv4.tcp_synack_retries", 0)
        self.assertEqual(syn_acks(self.bridge, self.hosts, 443, self.tokens), [1] * RACES)

    def test_the_very_syn_is_answered_again(self) -> None:
        """The kernel has it half open; from another source port it is a SYN without a token."""
        self.bridge.sysctl("net.ipv4.tcp_invalid_ratelimit", 0)
        token, port = self.tokens[0], source_port()
        for _ in range(3):
            self.assertEqual(self.answer(token, source_port=port), OPENS)
        self.assertEqual(self.answer(token), CLOSED)

    def test_the_very_syn_is_refused_once_the_kernel_has_forgotten_it(self) -> None:
        """A token is claimed once, whatever became of it: what was captured opens nothing when it is sent again."""
        token, port = self.tokens[0], source_port()
        self.assertEqual(self.answer(token, source_port=port), OPENS)
        self.assertEqual(self.answer(token, source_port=port, control=Control.RST), Control(0))
        self.assertEqual(self.answer((token + 1) % 2**32, source_port=port, control=Control.RST), Control(0))
        self.assertEqual(self.answer(token, source_port=port), CLOSED)

    def test_a_full_set_of_claims_admits_nothing(self) -> None:
        """It fails closed, and the token is not spent."""
        sizes = load(self.door, self.hidden).split("size 1048576")
        self.assertEqual(len(sizes), 3)
        full = f"{sizes[0]}size 1048576{sizes[1]}size 1{sizes[2]}"
        self.nft(full + admit(self.door.table, self.tokens[:2], 600))
        self.assertEqual([self.answer(token) for token in self.tokens[:2]], [OPENS, CLOSED])
        held = self.bridge.run(["nft", "list", "set", "inet", self.door.table, "tokens"]).stdout
        self.assertNotIn(f" {self.tokens[0]} ", held)
        self.assertIn(f" {self.tokens[1]} ", held)

    def test_a_token_may_be_withdrawn_and_admitted_again(self) -> None:
        """As when a line goes and another derives the same; what was claimed stays claimed for 15 minutes."""
        unused, used = self.tokens[:2]
        self.assertEqual(self.answer(used), OPENS)
        self.nft(withdraw(self.door.table, [unused, used]))
        self.assertEqual(self.answer(unused), CLOSED)
        self.nft(admit(self.door.table, [unused, used], 600))
        self.assertEqual([self.answer(token) for token in (unused, used)], [OPENS, CLOSED])

    def test_a_token_is_not_spent_at_another_port(self) -> None:
        """Every SYN is looked up; one to another port goes its way."""
        self.assertEqual(self.answer(self.tokens[0], 444), CLOSED)
        self.assertEqual(self.answer(self.tokens[0]), OPENS)

    def test_two_doors_have_tokens_of_their_own(self) -> None:
        """Those of one open nothing at the other, and are not spent there."""
        other = Door("::", 8443)
        mine, theirs, shared = self.tokens[:3]
        self.nft(load(other, self.hidden) + admit(other.table, [theirs, shared], 600))
        self.nft(withdraw(self.door.table, [theirs]))
        self.assertEqual([self.answer(theirs), self.answer(mine, 8443)], [CLOSED, CLOSED])
        self.assertEqual([self.answer(theirs, 8443), self.answer(mine)], [OPENS, OPENS])
        self.assertEqual([self.answer(shared, 8443), self.answer(shared)], [OPENS, OPENS])

    def test_nft_prints_what_was_loaded(self) -> None:
        """Whatever the door, so that what is loaded can be compared with what is there."""
        for host, posture, judging in product(("::", "192.0.2.7", "2001:db8::7"), Posture, (None, *Judging)):
            door = Door(host, 443, posture)
            try:
                self.nft(load(door, HiddenPorts(1, 2), judging))
            except CommandFailed:
                self.assertIs(judging, Judging.QUEUE)  # this kernel may lack nft_queue
                continue
            self.assertEqual(self.listed(door.table), listing(door, HiddenPorts(1, 2), judging))
            if posture is Posture.FILTERED:
                self.assertEqual(self.listed(posture_table(door)), posture_listing(door))

    def listed(self, table: str) -> str:
        return self.bridge.run(["nft", "--stateless", "--terse", "list", "table", "inet", table]).stdout
