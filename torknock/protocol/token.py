"""One-time tokens: the ISNs that open a bridge (protocol.md §2), and the key derived beside them (§3).

Pure: secrets and numbers in, numbers out. The secret is stored, and an epoch begins, elsewhere.
"""

from __future__ import annotations

import hmac
import struct

EPOCH = 300
"""Length of an epoch in seconds (protocol.md §2.1)."""

_A_DAY = 86_400 // EPOCH
"""Epochs of a day (UTC): epoch and day both count from 1970."""

FARTHEST = 36_525 * _A_DAY
"""Epochs that a secret of version 2 can be carried forward: a century, some 40 ms."""

_KEY = 32
FIXED, RATCHETED = _KEY, 72
"""Bytes of a secret of version 1 and of version 2: its first epoch's link, the next day's key, and that epoch."""

_Ratchet = struct.Struct("!32s32sQ")
_EPOCH_LABEL, _DAY_LABEL = b"torknock/2 epoch", b"torknock/2 day"

NEIGHBOURS = 1
"""So many epochs before and after the present one are valid too (protocol.md §2.3)."""


def epoch_at(unix_time: float) -> int:
    """The epoch that *unix_time* (seconds since 1970, UTC) lies in."""
    return int(unix_time // EPOCH)


def seconds_valid(epoch: int, unix_time: float) -> float:
    """How long from *unix_time* on the tokens of *epoch* are valid; not positive once they are no more."""
    return (epoch + NEIGHBOURS + 1) * EPOCH - unix_time


def first_epoch(secret: bytes) -> int:
    """The epoch that *secret* begins with: nothing can be derived of earlier ones. 0 for a secret of version 1."""
    _check(secret)
    return 0 if len(secret) == FIXED else _Ratchet.unpack(secret)[2]


def ratchet(link: bytes, day_key: bytes, epoch: int) -> bytes:
    """The secret, of version 2, that begins with *epoch*, of which *link* is; *day_key* is the following day's."""
    return _Ratchet.pack(link, day_key, epoch)


def forward(secret: bytes, epoch: int) -> bytes:
    """What *secret* has become in *epoch*; itself if it begins later, or is of version 1, which never changes.

    It goes `FARTHEST` at most. Out of it the secret cannot be found, nor what was derived in earlier epochs
    (protocol.md §2.2).
    """
    if epoch <= first_epoch(secret) or len(secret) == FIXED:
        return secret
    link, day_key, present = _Ratchet.unpack(secret)
    epoch = min(epoch, present + FARTHEST)
    for _ in range(epoch // _A_DAY - present // _A_DAY):
        present = (present // _A_DAY + 1) * _A_DAY
        link, day_key = _expand(day_key, _EPOCH_LABEL), _expand(day_key, _DAY_LABEL)
    for _ in range(epoch - present):
        link = _expand(link, _EPOCH_LABEL)
    return _Ratchet.pack(link, day_key, epoch)


def tokens(secret: bytes, pin: bytes, epoch: int, n: int) -> tuple[int, ...]:
    """The ISNs that open the bridge in *epoch*, in derivation order (protocol.md §2.2).

    *secret* is 32 bytes (version 1) or 72 (version 2), *pin* is 32; *n* is 1..1024; *epoch* fits 64 bits. At most *n*
    values in 1..2**32-1 come back: a derived 0 is left out, because a kernel cannot be asked for ISN 0. None at all of
    an epoch before the first of a secret of version 2, or `FARTHEST` after it.

    Raises `ValueError` if a length or *n* is out of range; its text never holds the secret.
    """
    _check_pin(pin)
    if not 1 <= n <= 1024:
        raise ValueError(f"n is 1..1024, not {n}")
    if len(secret) == RATCHETED and not 0 <= epoch - first_epoch(secret) <= FARTHEST:
        return ()
    _check(secret)
    info = pin + struct.pack("!Q", epoch)
    if len(secret) == FIXED:
        octets = _expand(_extract(secret), b"token\0" + info, 4 * n)
    else:
        link = forward(secret, epoch)[:_KEY]
        octets = _expand(link, b"torknock/2 token\0" + info, 4 * n)
    words = struct.unpack(f"!{n}I", octets)
    return words if all(words) else tuple(isn for isn in words if isn)


def proof_key(secret: bytes, pin: bytes) -> bytes:
    """The key of the proof that a client gives inside TLS: 32 bytes (protocol.md §3.3).

    Of a secret of version 2 it is that of its first epoch: see `forward`.
    """
    _check_pin(pin)
    _check(secret)
    if len(secret) == FIXED:
        return _expand(_extract(secret), b"proof\0" + pin)
    return _expand(secret[:_KEY], b"torknock/2 proof\0" + pin)


def _extract(secret: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869 §2.2): the `prk` of a *secret* of version 1."""
    return hmac.digest(b"torknock/1", secret, "sha256")


def _expand(key: bytes, info: bytes, length: int = _KEY) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 §2.3), by OpenSSL's HMAC.

    Not by `cryptography`, whose OpenSSL is not to be loaded before its configuration is named; and in a third of the
    time.
    """
    octets = block = hmac.digest(key, info + b"\x01", "sha256")
    for number in range(2, -(-length // len(block)) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        octets += block
    return octets[:length]


def _check(secret: bytes) -> None:
    if len(secret) not in (FIXED, RATCHETED):
        raise ValueError(f"a secret is {FIXED} or {RATCHETED} bytes, not {len(secret)}")


def _check_pin(pin: bytes) -> None:
    if len(pin) != _KEY:
        raise ValueError(f"a pin is {_KEY} bytes, not {len(pin)}")
