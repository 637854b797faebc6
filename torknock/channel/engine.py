"""TLS without a network: octets from the peer go in, octets for the peer come out, in few and large pieces.

The law: `feed` what has come; `handshake` until it is done; then, while neither `held` nor `end` is taken and it is not
`dry`, `decrypt`. After each of these, and after `encrypt` and `finish`, what is `written` goes to the peer. `held` is
taken before `end`, and nothing is decrypted after `end`.
"""

from __future__ import annotations

from OpenSSL import SSL

from torknock.channel.side import TLS

AT_ONCE = 120 * 1024
"""Octets that are read from the network, or given to TLS, at once. From 128 KiB on, malloc asks the kernel."""

RECORD = 16 * 1024
"""Octets that a TLS record holds at most (RFC 8446 §5.1)."""

_OVERHEAD = 64
"""Octets that a record is longer than what it holds, with room to spare."""


class Engine:
    """One end of a TLS connection, *tls*."""

    def __init__(self, tls: TLS) -> None:
        self.tls = tls
        self.handshaking = True
        self.held = b""
        """What was decrypted and not yet taken."""
        self.end: SSL.Error | None = None
        """What comes after `held`: `SSL.ZeroReturnError` for the peer's end, or what broke; to be taken once."""
        self.dry = False
        """Whether TLS has made all that it can of what it was given."""
        self._swollen = self._busy = False
        """Whether its BIOs keep room for more than a record, and whether more of that size is likely to come."""

    def feed(self, octets: bytes) -> None:
        """Take *octets* from the network."""
        self.tls.bio_write(octets)
        self.dry = False
        self.held_at_once(len(octets))

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises `SSL.Error`."""
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            return False
        self.handshaking = False
        return True

    def decrypt(self) -> None:
        """Take what there is from TLS, `AT_ONCE` and a record at most, however many records it came in."""
        pieces, size = [], 0
        try:
            while size < AT_ONCE:
                pieces.append(self.tls.recv(RECORD))
                size += len(pieces[-1])
        except SSL.WantReadError:
            self.dry = True
        except SSL.Error as error:
            self.end = error
        self.held = b"".join(pieces)

    def take(self) -> bytes:
        """What is `held`, once."""
        octets, self.held = self.held, b""
        return octets

    def encrypt(self, data: bytes | memoryview) -> int:
        """Encrypt *data*, `AT_ONCE` octets at most; about how many octets will be `written`."""
        self.tls.sendall(data)
        return len(data) + (len(data) // RECORD + 1) * _OVERHEAD

    def finish(self) -> None:
        """Write `close_notify`: nothing may be encrypted after it."""
        self.tls.shutdown()

    def written(self, about: int) -> bytes:
        """What TLS has written for the peer, *about* so many octets; if there are as many, there may be more."""
        try:
            return self.tls.bio_read(about)
        except SSL.WantReadError:
            return b""

    def held_at_once(self, size: int) -> None:
        """TLS's BIOs have had to hold *size* octets."""
        self._busy = size >= AT_ONCE
        self._swollen = self._swollen or size > RECORD + _OVERHEAD

    def shrink(self) -> None:
        """Give back the room that TLS's BIOs keep, once they are empty. All that was written must have been read.

        Raises `MemoryError`.
        """
        if self._swollen and self.dry and not self._busy:
            self._swollen = False
            self.tls.renew_bios()


def in_words(error: SSL.Error) -> str:
    """TLS's words, which hold neither secrets nor addresses."""
    if error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0]) or "TLS failed"
    return str(error) or "TLS failed"
