"""What a TLS pump asks: of TLS itself, and of one end of a channel until the connection is carried."""

from __future__ import annotations

from typing import Protocol

from cryptography import x509


class TLS(Protocol):
    """One end of TLS with memory BIOs, its side set: pyOpenSSL's `Connection`, or what has its methods and errors."""

    def do_handshake(self) -> None:
        """Go on. Raises `SSL.WantReadError` until it is done, or `SSL.Error`."""

    def bio_write(self, octets: bytes, /) -> int:
        """Take *octets* from the network."""

    def bio_read(self, at_most: int, /) -> bytes:
        """Octets for the network. Raises `SSL.WantReadError` if there are none."""

    def recv(self, at_most: int, /) -> bytes:
        """Octets of the peer's. Raises `SSL.WantReadError`, `SSL.ZeroReturnError` at its end, or `SSL.Error`."""

    def sendall(self, data: bytes | memoryview, /) -> int:
        """Encrypt *data*."""

    def shutdown(self) -> bool:
        """Write `close_notify`."""

    def peer_certificate(self) -> x509.Certificate | None:
        """What the peer has shown. Raises what `cryptography` does for one that cannot be read."""

    def export_keying_material(self, label: bytes, length: int, context: bytes, /) -> bytes:
        """*length* octets that both ends know, and nothing else (RFC 8446 §7.5)."""

    def renew_bios(self) -> None:
        """Replace the memory BIOs, which have been read empty, by ones that keep no room. Raises `MemoryError`."""


class Side(Protocol):
    """What a TLS connection is, and what becomes of it until it is carried."""

    says_alerts: bool
    """Whether a peer that breaks TLS before `carry` was called gets TLS's alert."""

    def begin(self) -> TLS:
        """TLS for the TCP connection that stands."""

    def handshakeDone(self) -> None:
        """TLS stands; what is written now leaves together with the handshake's last octets."""

    def received(self, octets: bytes) -> None:
        """*octets* came out of TLS, before `carry` was called."""

    def broken(self, reason: str) -> None:
        """The peer does not speak TLS as it should, before `carry` was called; the alert, if any, has been written."""

    def gone(self) -> None:
        """TCP is over, and no upper protocol stands on it."""
