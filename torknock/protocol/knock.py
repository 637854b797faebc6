"""Scheme `knock`: the ISNs of TCP Stealth (knock.md). Pure: secrets, addresses and numbers in, numbers out.

The authenticator is one compression of MD5 (RFC 1321 §3.4) from a chosen state, which neither hashlib nor
`cryptography` offers. A bridge compares each SYN with each line, so they are computed side by side, in NumPy.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SECRET_AT_MOST = 64
"""Octets of a secret that count."""

_SINES = tuple(int(abs(math.sin(step + 1)) * 2**32) for step in range(64))
_SHIFTS = (7, 12, 17, 22) * 4 + (5, 9, 14, 20) * 4 + (4, 11, 16, 23) * 4 + (6, 10, 15, 21) * 4
_WORDS = (
    *range(16),
    *((5 * step + 1) % 16 for step in range(16)),
    *((3 * step + 5) % 16 for step in range(16)),
    *(7 * step % 16 for step in range(16)),
)

_WORD = 0xFFFFFFFF
"""The 32 bits of a word."""

Words = npt.NDArray[np.uint32]


def integrity_code(secret: bytes, payload: bytes) -> int:
    """The 16 bits that stand for the first octets of the stream, *payload*, under *secret* (knock.md, IH)."""
    digest = hashlib.md5(_padded(secret) + payload, usedforsecurity=False).digest()
    code = 0
    for word in struct.unpack("!8H", digest):
        code ^= word
    return code


def isn(secret: bytes, address: bytes, port: int, tsval: int, code: int | None = None) -> int:
    """The ISN that opens *port* of *address*, the destination's 4 or 16 octets, for a SYN that carries *tsval*.

    *tsval* is 0 for a SYN without a timestamp. *code* is the payload's `integrity_code`; None is authentication only.
    """
    fields = struct.pack("!4xHxxIHxx", code or 0, tsval, port)
    state = bytes(octet ^ field for octet, field in zip(address.ljust(16, b"\0"), fields, strict=True))
    word: int = _compressed(struct.unpack("<4I", state), struct.unpack("<16I", _padded(secret)))
    return word if code is None else word & 0xFFFF0000 | code


class Authenticators:
    """The lines of a bridge, each a secret and how many octets its integrity code covers (0: none)."""

    def __init__(self, lines: Sequence[tuple[bytes, int]]) -> None:
        blocks = np.array([struct.unpack("<16I", _padded(secret)) for secret, _ in lines], dtype=np.uint32)
        self._blocks = [column[:, np.newaxis] for column in blocks.reshape(len(lines), 16).T]
        self._integrity = np.array([size > 0 for _, size in lines], dtype=bool)[:, np.newaxis]

    def matches(self, syns: Sequence[tuple[bytes, int, int, int]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Which line opens for which of *syns*, each (destination's octets, port, TSval, ISN): two arrays of indices.

        Every ISN is compared with every line, all 32 bits or the high 16 of a line with integrity; no comparison ends
        early.
        """
        given = np.array([number for _, _, _, number in syns], dtype=np.uint32)
        expected = self._isns([(address, port, tsval, number & 0xFFFF) for address, port, tsval, number in syns])
        lines, opened = np.nonzero((expected ^ given) == 0)
        return lines, opened

    def _isns(self, syns: Sequence[tuple[bytes, int, int, int]]) -> Words:
        """The ISN of each line for each (destination's octets, port, TSval, integrity code): a row for each line."""
        codes = np.array([code for _, _, _, code in syns], dtype=np.uint32)
        bound, plain = _states(syns, with_code=True), _states(syns)
        state = [np.where(self._integrity, one, other) for one, other in zip(bound, plain, strict=True)]
        words: Words = _compressed(state, self._blocks)
        return np.where(self._integrity, words & np.uint32(0xFFFF0000) | codes, words)


def _padded(secret: bytes) -> bytes:
    return secret[:SECRET_AT_MOST].ljust(SECRET_AT_MOST, b"\0")


def _states(syns: Sequence[tuple[bytes, int, int, int]], with_code: bool = False) -> Words:
    """The state that the compression begins from, for each SYN: four words, a row for each word."""
    fields = b"".join(struct.pack("!4xHxxIHxx", code if with_code else 0, tsval, port) for _, port, tsval, code in syns)
    addresses = b"".join(address.ljust(16, b"\0") for address, _, _, _ in syns)
    mixed = np.frombuffer(addresses, np.uint8) ^ np.frombuffer(fields, np.uint8)
    return np.frombuffer(mixed.tobytes(), "<u4").astype(np.uint32).reshape(len(syns), 4).T


def _compressed(state: Sequence[Any], block: Sequence[Any]) -> Any:
    """The exclusive-or of the words that one compression of *block* makes of *state*: of numbers, or of arrays."""
    a, b, c, d = state
    for step in range(64):
        if step < 16:
            mixed = d ^ b & (c ^ d)
        elif step < 32:
            mixed = c ^ d & (b ^ c)
        elif step < 48:
            mixed = b ^ c ^ d
        else:
            mixed = c ^ (b | ~d)
        mixed = mixed + a + block[_WORDS[step]] + _SINES[step] & _WORD
        shift = _SHIFTS[step]
        a, d, c, b = d, c, b, b + (mixed << shift | mixed >> 32 - shift) & _WORD
    return (state[0] + a ^ state[1] + b ^ state[2] + c ^ state[3] + d) & _WORD
