"""Channel `raw`: the service's own octets, untouched."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocol
from zope.interface import implementer

from torknock.channel.interfaces import IClientChannel, IServerChannel
from torknock.protocol.bridge_line import Line


@implementer(IClientChannel, IServerChannel)
class Raw:
    """Costs nothing: *upper* stands on the TCP connection itself."""

    def open(self, line: Line, isn: int, host: str, upper: IProtocol) -> tuple[IProtocol, Deferred[None]]:
        """See `IClientChannel.open`."""
        return upper, succeed(None)

    def accept(
        self, lines: Sequence[Line], isn: int, upper: IProtocol, known_at: Sequence[Collection[str]] = ()
    ) -> tuple[IProtocol, Deferred[int]]:
        """See `IServerChannel.accept`. Nothing proves more than the SYN did, so it is the first line's."""
        return upper, succeed(0)
