"""One-time tokens: the ISNs that open a bridge (protocol.md §2), and the key derived beside them (§3).

Pure: secrets and numbers in, numbers out. Who keeps the secret, and when an epoch begins, is somebody else's business.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

EPOCH = 300
"""Length of an epoch in seconds (protocol.md §2.1)."""

NEIGHBOURS = 1
"""So many epochs before and after the present one are valid too (protocol.md §2.3)."""


def epoch_at(unix_time: float) -> int:
    """The epoch that *unix_time* (seconds since 1970, UTC) lies in."""
    return int(unix_time // EPOCH)


def seconds_valid(epoch: int, unix_time: float) -> float:
    """How long from *unix_time* on the tokens of *epoch* are valid; not positive once they are no more."""
    return (epoch + NEIGHBOURS + 1) * EPOCH - unix_time


def extract(secret: bytes) -> bytes:
    """The `prk` of a *secret*: 32 bytes out of 32 (protocol.md §2.2), worth keeping for the tokens of many epochs."""
    if len(secret) != 32:
        raise ValueError(f"a secret is 32 bytes, not {len(secret)}")
    return HKDF.extract(SHA256(), b"torknock/1", secret)


def expand_tokens(prk: bytes, pin: bytes, epoch: int, n: int) -> tuple[int, ...]:
    """The ISNs that open the bridge in *epoch*, in derivation order, out of `extract`'s *prk*; see `tokens`."""
    if len(pin) != 32:
        raise ValueError(f"a pin is 32 bytes, not {len(pin)}")
    if not 1 <= n <= 1024:
        raise ValueError(f"n is 1..1024, not {n}")
    info = b"token\0" + pin + struct.pack("!Q", epoch)
    words = struct.unpack(f"!{n}I", HKDFExpand(SHA256(), 4 * n, info).derive(prk))
    return words if all(words) else tuple(isn for isn in words if isn)


def tokens(secret: bytes, pin: bytes, epoch: int, n: int) -> tuple[int, ...]:
    """The ISNs that open the bridge in *epoch*, in derivation order (protocol.md §2.2).

    *secret* and *pin* are 32 bytes each; *n* is 1..1024; *epoch* fits 64 bits. At most *n* values in
    1..2**32-1 come back: a derived 0 is left out, because a kernel cannot be asked for ISN 0.

    Raises `ValueError` if a length or *n* is out of range; its text never holds the secret.
    """
    return expand_tokens(extract(secret), pin, epoch, n)


def proof_key(secret: bytes, pin: bytes) -> bytes:
    """The key of the proof that a client gives inside TLS: 32 bytes (protocol.md §3.3)."""
    if len(pin) != 32:
        raise ValueError(f"a pin is 32 bytes, not {len(pin)}")
    return HKDFExpand(SHA256(), 32, b"proof\0" + pin).derive(extract(secret))
