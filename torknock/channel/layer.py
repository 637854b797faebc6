"""What a protocol that is the transport of another one passes to the transport below it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from twisted.internet.protocol import Protocol


class Layer(Protocol):
    """The protocol on one transport, and the transport of the next protocol."""

    transport: Any

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send *data*."""

    @abstractmethod
    def loseConnection(self) -> None:
        """Close the connection."""

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send the octets in *data*, one after the other."""
        self.write(b"".join(data))

    def stopProducing(self) -> None:
        """Close the connection."""
        self.loseConnection()

    def getPeer(self) -> Any:
        """The connection's peer."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """The connection's own address."""
        return self.transport.getHost()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """TCP's option."""
        self.transport.setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """TCP's option."""
        self.transport.setTcpKeepAlive(enabled)
