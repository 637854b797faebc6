"""What a TLS pump asks of one end of a channel, until the connection is carried."""

from __future__ import annotations

from typing import Protocol

from OpenSSL import SSL


class Side(Protocol):
    """What a TLS connection is, and what becomes of it until it is carried."""

    says_alerts: bool
    """Whether a peer that breaks TLS before `carry` was called gets OpenSSL's alert."""

    def begin(self) -> SSL.Connection:
        """TLS for the TCP connection that stands, with memory BIOs; its side is set."""

    def handshakeDone(self) -> None:
        """TLS stands; what is written now leaves together with the handshake's last octets."""

    def received(self, octets: bytes) -> None:
        """*octets* came out of TLS, before `carry` was called."""

    def broken(self, reason: str) -> None:
        """The peer does not speak TLS as it should, before `carry` was called; the alert, if any, has been written."""

    def gone(self) -> None:
        """TCP is over, and no upper protocol stands on it."""
