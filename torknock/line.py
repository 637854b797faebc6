"""Bridge lines: what a client must know to knock (protocol.md §4). Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

DEFAULT_N = 8
"""Tokens per epoch of a line that does not say (protocol.md §2.1)."""


@dataclass(frozen=True, slots=True)
class Line:
    """The pluggable-transport arguments of a bridge line (protocol.md §4)."""

    secret: bytes = field(repr=False)
    """32 bytes, `key=`."""
    pin: bytes | None
    """32 bytes, SHA-256 of the bridge's SubjectPublicKeyInfo; None where a public certificate for `sni` takes its place."""
    n: int = DEFAULT_N
    """Tokens per epoch, 1..1024."""
    sni: str | None = None
    """The name for SNI and DNS-ID, lower case."""
    scheme: str = "token"
    channel: str = "tls"

    @property
    def bridge_name(self) -> bytes:
        """What names the bridge in derivations, 32 bytes: the pin, or a hash of `sni` where there is none (protocol.md §2.1)."""
        if self.pin is not None:
            return self.pin
        return hashlib.sha256(b"torknock/1 sni\0" + (self.sni or "").encode("ascii")).digest()
