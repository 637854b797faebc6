"""Tests of torknock.privileged.gate.kernel, and of what an ordinary user may have of it."""

from __future__ import annotations

import errno
import os
import socket

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.reactor import reactor
from torknock.interfaces import GateFailed
from torknock.kernel.blocking_program import ProgramFailed
from torknock.kernel.ipv6 import has_ipv6
from torknock.kernel.nftables_state import ruleset_generation
from torknock.privileged.gate.kernel import Kernel
from torknock.privileged.gate.listeners import hidden_listeners

FAMILIES = (socket.AF_INET, socket.AF_INET6) if has_ipv6() else (socket.AF_INET,)


class KernelTests(TestCase):
    """`Kernel`."""

    def setUp(self) -> None:
        self.kernel = Kernel(reactor)

    async def test_programs_are_run(self) -> None:
        """In the reactor and in a thread; one that is missing is named with its package."""
        self.assertIn("nftables v", await Deferred.fromCoroutine(self.kernel.run("nft", ["--version"])))
        self.assertIn("nftables v", self.kernel.output("nft", "--version"))
        with self.assertRaisesRegex(GateFailed, "torknock-none is missing; apt-get install iptables"):
            await self.kernel.run("torknock-none", [])
        self.assertRaises(ProgramFailed, self.kernel.output, "nft", "--no-such-option")

    def test_netlink_answers(self) -> None:
        """With the generation, or that this user may not ask."""
        try:
            self.assertGreater(ruleset_generation(self.kernel.connect), 0)
        except OSError as error:
            self.assertEqual(error.errno, errno.EPERM)
            self.assertNotEqual(os.geteuid(), 0)

    def test_a_socket_is_made_transparent_for_root_alone(self) -> None:
        """In either IP version."""
        for family in FAMILIES:
            with socket.socket(family, socket.SOCK_STREAM) as made:
                if os.geteuid() == 0:
                    self.kernel.make_transparent(made)
                else:
                    self.assertRaises(PermissionError, self.kernel.make_transparent, made)

    def test_no_listener_is_left_when_one_cannot_be_had(self) -> None:
        """The first is closed if the second is refused."""
        seen: list[socket.socket] = []

        def refuse(made: socket.socket) -> None:
            seen.append(made)
            if made.family == FAMILIES[-1]:
                raise OSError(errno.EPERM, "no")

        self.assertRaises(OSError, hidden_listeners, "::", refuse)
        self.assertEqual([each.fileno() for each in seen], [-1] * len(seen))
