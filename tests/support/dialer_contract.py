"""What every `IPrivilegedDialer` does: one suite, run against the one in memory and, with real packets, the real ones.

A test module's class is `(DialerContract, TestCase)`; its `setUp` sets what the suite asks for.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, TimeoutError
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from torknock.interfaces import CannotKnock, Dialled, IPrivilegedDialer, Slipped

reactor: Any = _reactor

ISN = 0xC0FFEE42
_SLIPS_AT_MOST = 60

if TYPE_CHECKING:
    _Case = TestCase
else:  # trial would run a suite that is a TestCase itself
    _Case = object


def open_sockets() -> set[str]:
    """Those of this process."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is gone
            found.add(os.readlink(descriptor))
    return {name for name in found if name.startswith("socket:")}


class DialerContract(_Case):
    """The suite; each place is a host and a port."""

    dialer: IPrivilegedDialer
    opens: Sequence[tuple[str, int]]
    """What accepts connections, over IPv4 and IPv6."""
    refuses: Sequence[tuple[str, int]]
    silent: Sequence[tuple[str, int]]
    no_way: tuple[str, int]
    """To which a router says that there is no way."""

    def left(self) -> Sequence[tuple[str, int, int]]:
        """The SYNs that have left: host, port and ISN."""
        raise NotImplementedError

    async def stamped(self, place: tuple[str, int], asked: list[int]) -> Dialled:
        """A stamped dial; one that slips on a busy host is tried again. *asked* gets the TSvals of the last."""

        def choose(tsval: int) -> int:
            asked.append(tsval)
            return ISN

        for _ in range(_SLIPS_AT_MOST):
            asked.clear()
            try:
                return await self.dialer.dial_stamped(*place, choose)
            except Slipped:
                continue
        self.fail("every SYN slipped")

    async def test_it_is_ready(self) -> None:
        """It has the methods of the interface, and says that it can dial."""
        self.assertTrue(verifyObject(IPrivilegedDialer, self.dialer))
        await self.dialer.ready()

    async def test_a_connection_is_opened_by_the_isn_that_was_asked_for(self) -> None:
        """Every ISN but 0; the socket does not block, and no program that is started inherits it."""
        for place in self.opens:
            for isn in (1, ISN, 2**31, 2**32 - 1):
                with await self.dialer.dial(*place, isn) as connected:
                    self.assertEqual((connected.getblocking(), connected.get_inheritable()), (False, False))
                    connected.getpeername()
                self.assertEqual(self.left()[-1], (*place, isn))

    async def test_an_isn_that_no_syn_can_have_is_a_mistake(self) -> None:
        """Nothing is sent."""
        for isn in (0, -1, 2**32):
            self.assertRaises(ValueError, self.dialer.dial, *self.opens[0], isn)
        self.assertEqual(list(self.left()), [])

    async def test_what_is_no_address_is_not_dialled(self) -> None:
        """Names are not looked up, in either kind of dial."""
        for host in ("bridge.example", "", "1"):
            await self.assertFailure(self.dialer.dial(host, 443, ISN), CannotKnock)
            await self.assertFailure(self.dialer.dial_stamped(host, 443, lambda _: ISN), CannotKnock)
        self.assertEqual(list(self.left()), [])

    async def test_a_refusal_is_an_error_of_its_own(self) -> None:
        """After one SYN."""
        for place in self.refuses:
            error = await self.assertFailure(self.dialer.dial(*place, ISN), ConnectionRefusedError)
            self.assertEqual(getattr(error, "osError", None), errno.ECONNREFUSED)
        self.assertEqual(list(self.left()), [(*place, ISN) for place in self.refuses])

    async def test_a_router_that_knows_no_way_is_heard(self) -> None:
        """A `ConnectError` with the errno."""
        error = await self.assertFailure(self.dialer.dial(*self.no_way, ISN), ConnectError)
        self.assertEqual(getattr(error, "osError", None), errno.EHOSTUNREACH)

    async def test_a_dial_that_is_given_up_leaves_nothing(self) -> None:
        """No socket of this process, and no error in its log, whether a timeout or the caller gives it up."""
        before = open_sockets()
        for place in self.silent:
            dialling = self.dialer.dial(*place, ISN)
            while (*place, ISN) not in self.left():
                await deferLater(reactor, 0.02)
            await self.assertFailure(dialling.addTimeout(0.1, reactor), TimeoutError)
            dialling = self.dialer.dial(*place, ISN + 1)
            while (*place, ISN + 1) not in self.left():
                await deferLater(reactor, 0.02)
            dialling.cancel()
            await self.assertFailure(dialling, CancelledError)
        while open_sockets() - before:
            await deferLater(reactor, 0.02)

    async def test_a_stamped_dial_returns_its_numbers(self) -> None:
        """The ISN is chosen once, for the TSval that comes back with it."""
        for place in self.opens:
            asked: list[int] = []
            dialled = await self.stamped(place, asked)
            with dialled.socket as connected:
                self.assertEqual((connected.getblocking(), connected.get_inheritable()), (False, False))
            self.assertEqual((dialled.isn, [dialled.tsval]), (ISN, asked))
            self.assertEqual(self.left()[-1], (*place, ISN))

    async def test_a_stamped_dial_for_which_there_is_no_isn_sends_nothing(self) -> None:
        """0 gives the dial up."""
        error = await self.assertFailure(self.dialer.dial_stamped(*self.opens[0], lambda _: 0), Slipped)
        self.assertFalse(getattr(error, "sent", True))
        self.assertEqual(list(self.left()), [])
