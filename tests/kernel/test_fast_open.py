"""TCP Fast Open (RFC 7413) at the gate: a SYN with data or a cookie gets what the same SYN gets at any other port."""

from __future__ import annotations

import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.capture import Control
from tests.support.netns import Lab
from tests.support.packets import LINUX_SYN_OPTIONS, exchange, packet_from, probe
from torknock.protocol.token import epoch_at, tokens

_ASKS = LINUX_SYN_OPTIONS + bytes.fromhex("2202 0101")
_HAS = LINUX_SYN_OPTIONS + bytes.fromhex("220a 0123456789abcdef 0101")
_HELLO = b"\x16\x03\x01\x00\x05hello"

SYNS: dict[str, dict[str, Any]] = {
    "data": {"options": LINUX_SYN_OPTIONS, "payload": _HELLO},
    "cookie request": {"options": _ASKS},
    "cookie request, data": {"options": _ASKS, "payload": _HELLO},
    "cookie": {"options": _HAS},
    "cookie, data": {"options": _HAS, "payload": _HELLO},
}
"""What a client of TCP Fast Open may send first, as keyword arguments of `packet_from`."""

_ON, _FOR_EVERY_LISTENER = 0x3, 0x603
"""net.ipv4.tcp_fastopen (ip-sysctl): for listeners that ask for it; for all of them, and without a cookie."""


class FastOpenTests(SynchronousTestCase):
    """A bridge on a host where Fast Open is switched on."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")

    def served(self, mode: int) -> list[int]:
        """Unused tokens of a bridge that was started with *mode* in force, and lets clients in."""
        self.bridge.sysctl("net.ipv4.tcp_fastopen", mode)
        service = HiddenService(self.bridge)
        self.addCleanup(service.close)
        line = service.line("alice", time.time()).line
        fresh = list(tokens(line.secret, line.bridge_name, epoch_at(time.time()), line.n))
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, fresh.pop()) == GREETING))
        return fresh

    def test_without_a_token(self) -> None:
        """As the port beside it: a RST that acknowledges all of the SYN's data."""
        self.served(_FOR_EVERY_LISTENER)
        for address in (self.bridge.address, self.bridge.address6):
            for name, how in SYNS.items():
                with self.subTest(name=name, address=address):
                    answers = [probe(self.client, address, port, **how) for port in (443, 444)]
                    self.assertEqual(answers[0], answers[1])
                    assert answers[0] is not None
                    self.assertEqual(answers[0].control, Control.RST | Control.ACK)
                    self.assertEqual(answers[0].ack_rule, "probe end")

    def test_with_a_token(self) -> None:
        """As a plain SYN with a token: no cookie is given, and no data is taken before the handshake is complete."""
        self.assert_tokens_open_as_ever(_ON)

    def test_with_a_token_where_every_listener_takes_data(self) -> None:
        """The hidden listeners are none of them."""
        self.assert_tokens_open_as_ever(_FOR_EVERY_LISTENER)

    def assert_tokens_open_as_ever(self, mode: int) -> None:
        """Each of `SYNS` with a token is answered as a plain SYN with a token is."""
        fresh = self.served(mode)
        for address in (self.bridge.address, self.bridge.address6):
            plain = probe(self.client, address, 443, options=LINUX_SYN_OPTIONS, seq=fresh.pop())
            assert plain is not None
            self.assertEqual(plain.control, Control.SYN | Control.ACK)
            for name, how in SYNS.items():
                with self.subTest(name=name, address=address):
                    syn = packet_from(self.client, address, 443, seq=fresh.pop(), **how)
                    seen = exchange(self.client, syn)
                    assert seen is not None and seen.packet is not None
                    self.assertEqual(seen.packet.control, Control.SYN | Control.ACK)
                    self.assertEqual(seen.packet.ack, (syn.seq + 1) % 2**32)
                    self.assertEqual(tuple(kind for kind, _ in seen.packet.option_list), plain.option_kinds)
