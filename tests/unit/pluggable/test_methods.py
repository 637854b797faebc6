"""`pluggable.methods`: how long an address in use is waited for. The rest is in `test_managed`."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pluggable.methods import listen

IN_USE = CannotListenError("127.0.0.1", 443, OSError(errno.EADDRINUSE, "in use"))
FORBIDDEN = CannotListenError("127.0.0.1", 443, OSError(errno.EACCES, "forbidden"))


@implementer(IListeningPort)
class Port:
    """A port that is nowhere."""

    def startListening(self) -> None:
        """It does."""

    def stopListening(self) -> Deferred[None]:
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 443)


@implementer(IStreamServerEndpoint)
class Endpoint:
    """Each `listen` has the next of *results*."""

    def __init__(self, results: list[Any]) -> None:
        self._results = results

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        result = self._results.pop(0)
        return fail(result) if isinstance(result, Exception) else succeed(result)


class ListenTests(SynchronousTestCase):
    """`listen`."""

    def listen(self, *results: Any) -> tuple[Deferred[IListeningPort], Clock]:
        clock = Clock()
        return Deferred.fromCoroutine(listen(clock, Endpoint([*results]), Factory())), clock

    def test_an_address_that_a_predecessor_leaves_is_waited_for(self) -> None:
        """It leaves within seconds."""
        port = Port()
        listening, clock = self.listen(IN_USE, IN_USE, port)
        clock.advance(0.25)
        self.assertNoResult(listening)
        clock.advance(0.25)
        self.assertIs(self.successResultOf(listening), port)

    def test_an_address_that_stays_in_use_is_given_up_after_five_seconds(self) -> None:
        """Another program has it."""
        listening, clock = self.listen(*[IN_USE] * 30)
        clock.pump([0.25] * 19)
        self.assertNoResult(listening)
        clock.advance(0.25)
        self.failureResultOf(listening, CannotListenError)

    def test_any_other_reason_fails_at_once(self) -> None:
        """A missing permission does not come by itself."""
        listening, clock = self.listen(FORBIDDEN)
        self.failureResultOf(listening, CannotListenError)
        self.assertEqual(clock.getDelayedCalls(), [])
