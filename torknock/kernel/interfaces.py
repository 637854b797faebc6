"""What torknock uses of Twisted's reactor, as types: a call that no reactor has is found before it is made."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import (
    IListeningPort,
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)
from twisted.internet.protocol import Factory


class IReadingReactor(IReactorTime, IReactorFDSet):
    """Waits for time and for descriptors."""


class IReactor(IReadingReactor, IReactorCore, IReactorProcess, IReactorTCP, IReactorThreads):
    """All that is used: the reactor of a process. `IReactorSocket` of Twisted's says less than what is true."""

    def adoptStreamConnection(descriptor: int, family: int, factory: Factory[Any]) -> Any:
        """Serve the connected socket *descriptor* with a protocol of *factory*; returns its transport."""

    def adoptStreamPort(descriptor: int, family: int, factory: Factory[Any]) -> IListeningPort:
        """Accept connections from the listening socket *descriptor*."""
