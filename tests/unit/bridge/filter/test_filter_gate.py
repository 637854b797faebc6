"""Tests of torknock.bridge.filter.filter_gate on loopback, without privilege: what is loaded, and what is silent.

That a token opens the port is shown with real packets (tests/kernel/test_filter.py): only CAP_NET_ADMIN chooses an ISN.
"""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.gate_contract import E, page
from tests.support.own_tor import free_port
from torknock.bridge.accept import Listener
from torknock.bridge.filter import filter_gate
from torknock.bridge.filter.bpf import TOKENS_AT_MOST
from torknock.bridge.filter.filter_gate import FilterGate
from torknock.interfaces import DoorTaken, GateFailed
from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import SYN
from torknock.protocol.wanted import Page, Wanted
from torknock.service.access import EVERYWHERE


class Adopting:
    """The part of a `Listener` that a gate uses; a test accepts connections by hand."""

    def __init__(self) -> None:
        self.listening: list[socket.socket] = []
        self.on_syn: Callable[[SYN], object] = lambda _syn: None

    def adopt(self, listening: Sequence[socket.socket], on_syn: Callable[[SYN], object]) -> None:
        self.listening, self.on_syn = list(listening), on_syn


def syn(isn: int) -> SYN:
    """One with this ISN."""
    return SYN("198.51.100.1", 50_000, bytes([127, 0, 0, 1]), 443, isn, None)


class FilterGateTests(SynchronousTestCase):
    """A gate at a port of loopback."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="torknock-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.clock, self.adopting = Clock(), Adopting()
        self.door = Door("127.0.0.1", free_port(), Posture.FILTERED)
        self.gate = self.made(self.door)

    def made(self, door: Door) -> FilterGate:
        """A gate at *door*, which gives its port up when the test ends."""
        gate = FilterGate(cast(Any, self.clock), door, cast(Listener, self.adopting), self.directory / "doors")
        self.addCleanup(self.give_up, gate)
        return gate

    def give_up(self, gate: FilterGate) -> None:
        for pair in gate._pairs:
            pair.close()
        for listening in self.adopting.listening:
            listening.close()

    def apply(self, *pages: Page, gate: FilterGate | None = None) -> None:
        self.successResultOf((gate or self.gate).apply(Wanted(False, pages)))

    def held(self) -> int | None:
        held: int | None = self.successResultOf(self.gate.held())
        return held

    def test_a_stranger_is_not_answered(self) -> None:
        """The SYN is dropped and counted; the connection stays half-open. Without the gate it would be refused."""
        self.apply(page([1001]))
        with socket.socket() as stranger:
            stranger.setblocking(False)
            self.assertEqual(stranger.connect_ex(("127.0.0.1", self.door.port)), errno.EINPROGRESS)
            while not self.successResultOf(self.gate.refused()):
                pass
            self.assertRaises(OSError, stranger.getpeername)
            self.assertEqual(stranger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)

    def test_the_kernel_holds_what_is_wanted(self) -> None:
        """Tokens of every page, until their time is over; nothing before the first, and nothing once it is closed."""
        self.assertIsNone(self.held())
        self.apply(page([1001, 1002], seconds=300), page([1003], E + 1, seconds=600))
        self.assertEqual(self.held(), 3)
        self.clock.advance(301)
        self.assertEqual(self.held(), 1)
        self.clock.advance(300)
        self.assertEqual(self.held(), 0)
        self.apply(page([1004]))
        self.successResultOf(self.gate.close())
        self.assertEqual(self.held(), 0)

    def test_a_token_that_was_used_is_not_let_in_again(self) -> None:
        """While it is still wanted: its spender may not have come to it. Another one stays."""
        self.apply(page([1001, 1002]))
        self.adopting.on_syn(syn(1001))
        self.assertEqual(self.held(), 1)
        self.adopting.on_syn(syn(4711))
        self.apply(page([1001, 1002]))
        self.assertEqual(self.held(), 1)
        self.apply(page([1002]))
        self.apply(page([1001, 1002]))
        self.assertEqual(self.held(), 2)

    def test_too_many_tokens_are_refused_with_the_remedy(self) -> None:
        """What was loaded before stays."""
        self.apply(page([1001]))
        failed = self.gate.apply(Wanted(False, (page(range(1, TOKENS_AT_MOST + 2)),)))
        self.assertIn("revoke lines", str(self.failureResultOf(failed, GateFailed).value))
        self.assertEqual(self.held(), 1)
        self.apply(page(range(1, TOKENS_AT_MOST + 1)))
        self.assertEqual(self.held(), TOKENS_AT_MOST)

    def test_a_port_of_another_program_is_not_shared(self) -> None:
        """It would hear part of the connections."""
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", self.door.port))
            other.listen()
            self.failureResultOf(self.gate.apply(Wanted(False, ())), DoorTaken)

    def test_a_door_has_one_gate(self) -> None:
        """Also of two that would listen at the same moment."""
        self.apply(page([1001]))
        self.failureResultOf(self.made(self.door).apply(Wanted(False, ())), DoorTaken)

    def test_every_address_is_both_versions(self) -> None:
        """One pair of sockets for each that the kernel has; the bridge accepts on the open ones."""
        gate = self.made(Door(EVERYWHERE, free_port(), Posture.FILTERED))
        self.apply(page([1001]), gate=gate)
        versions = {4: socket.AF_INET, 6: socket.AF_INET6}
        self.assertEqual(
            [each.family for each in self.adopting.listening], [versions[it.version] for it in gate._pairs]
        )
        self.assertEqual(gate._pairs[0].version, 4)

    def test_a_kernel_without_signatures_is_warned_of(self) -> None:
        """A neighbour on the link would be answered."""
        self.patch(filter_gate, "_wants_signature", lambda _deaf: False)
        warned: list[str] = []
        self.patch(filter_gate._log, "warn", lambda text, **_: warned.append(text))
        self.apply(page([1001]))
        self.assertIn("no TCP-MD5", warned[0])

    def test_a_program_that_the_kernel_refuses_closes_nothing_by_itself(self) -> None:
        """What is loaded is not known then; the remedy names the limit."""
        self.apply(page([1001]))

        def refuses(*_: Any) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        self.patch(filter_gate, "_choose", refuses)
        failed = self.failureResultOf(self.gate.apply(Wanted(False, (page([1002]),))), GateFailed)
        self.assertIn("net.core.optmem_max", str(failed.value))
        self.assertIsNone(self.held())

    def test_why_a_port_cannot_be_had_is_said(self) -> None:
        """With what to do about it."""
        for number, told in (
            (errno.EACCES, "choose a port above 1023"),
            (errno.EAFNOSUPPORT, "0.0.0.0:443"),
            (errno.ENOBUFS, "port 443 cannot be listened on"),
        ):
            self.assertIn(told, str(filter_gate._why(OSError(number, "so it is"), 443)))
        gate = self.made(Door("192.0.2.7", free_port(), Posture.FILTERED))  # an address of no host
        self.failureResultOf(gate.apply(Wanted(False, ())), GateFailed)
        self.assertEqual(gate._pairs, [])
