"""The first octets inside TLS: a proof of the secret, bound to session and ISN (protocol.md §3.3). Pure."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

EXPORTER_LABEL = b"EXPORTER-torknock-1"
EXPORTED = 32
"""Octets of keying material that the exporter gives (RFC 8446 §7.5)."""

PROOF = 32
PAD_AT_MOST = 1024


class WrongHello(ValueError):
    """The first octets are no hello."""


def exporter_context(isn: int) -> bytes:
    """What the exporter is bound to besides the session: the SYN that opened the connection."""
    return struct.pack("!I", isn)


def proof(key: bytes, exported: bytes) -> bytes:
    """HMAC-SHA256 of the exported keying material under the line's `torknock.protocol.token.proof_key`."""
    return hmac.digest(key, exported, "sha256")


def hello(given: bytes, padding: bytes) -> bytes:
    """The hello with the proof *given*; *padding* is 0..1,024 random octets."""
    if len(given) != PROOF or len(padding) > PAD_AT_MOST:
        raise ValueError("a proof is 32 octets, its padding at most 1,024")
    return given + struct.pack("!H", len(padding)) + padding


def whose(keys: Sequence[bytes], exported: bytes, given: bytes) -> int | None:
    """The index of the key that *given* was made with; all are compared, each in constant time."""
    found = None
    for index, key in enumerate(keys):
        if hmac.compare_digest(proof(key, exported), given):
            found = index
    return found


class HelloReader:
    """Reads a hello out of octets that come in pieces of any size."""

    def __init__(self) -> None:
        self._inbox = b""
        self.proof: bytes | None = None
        """The proof, once the hello is complete."""
        self.rest = b""
        """What followed the hello."""

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return bool(self._inbox) or self.proof is not None

    def feed(self, octets: bytes) -> None:
        """Take more octets; those after a complete hello are `rest`. Raises `WrongHello`."""
        if self.proof is not None:
            self.rest += octets
            return
        self._inbox += octets
        if len(self._inbox) < PROOF + 2:
            return
        (pad,) = struct.unpack_from("!H", self._inbox, PROOF)
        if pad > PAD_AT_MOST:
            raise WrongHello(f"{pad} octets of padding, at most {PAD_AT_MOST} are allowed")
        end = PROOF + 2 + pad
        if len(self._inbox) >= end:
            self.proof, self.rest, self._inbox = self._inbox[:PROOF], self._inbox[end:], b""
