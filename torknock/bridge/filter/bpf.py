"""Tokens as a classic-BPF program which says what of two listening sockets hears a segment. Pure.

The kernel runs it for each segment that belongs to no connection and to no handshake under way (SO_REUSEPORT,
SO_ATTACH_REUSEPORT_CBPF: socket(7)). It begins at the payload; the headers are loaded by SKF_NET_OFF.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

TOKENS_AT_MOST = 3_072
"""128 lines of 8 tokens an epoch: with them a program stays below the 4,096 instructions of BPF_MAXINSNS."""

OPEN, DEAF = 1, 0
"""What a program returns: which socket hears the segment. A load beyond the segment's end returns 0, too."""

_LEAF = 16
"""So many tokens are compared one after the other, below that the tree does not branch."""

# linux/bpf_common.h
_LOAD_OCTET, _LOAD_OCTET_AT, _LOAD_WORD_AT, _LOAD_X = 0x30, 0x50, 0x40, 0x01
_AND, _SHIFT, _TO_X, _RETURN = 0x54, 0x64, 0x07, 0x06
_JUMP, _IF_EQUAL, _IF_NOT_LESS = 0x05, 0x15, 0x35
_WORDS = {
    _LOAD_OCTET: "ldb {}", _LOAD_OCTET_AT: "ldb x+{}", _LOAD_WORD_AT: "ld x+{}", _LOAD_X: "ldx #{}", _AND: "and {}",
    _SHIFT: "lsh {}", _TO_X: "tax", _RETURN: "ret {}", _JUMP: "ja", _IF_EQUAL: "jeq {}", _IF_NOT_LESS: "jge {}",
}  # fmt: skip

NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF, linux/filter.h: an offset from here on counts from the IP header."""

_NEXT_HEADER, _IPV6_OCTETS, _TCP = 6, 40, 6
_SEQ, _CONTROL = 4, 13
"""Octets of the TCP header (RFC 9293 §3.1)."""

_FIN_SYN_RST_ACK, _SYN = 0x17, 0x02
_FARTHEST = 255
"""A conditional jump has an octet for its distance."""


class Instruction(NamedTuple):
    """One of struct sock_filter (linux/filter.h)."""

    code: int
    if_true: int
    if_false: int
    k: int


_HEAR, _IGNORE = Instruction(_RETURN, 0, 0, OPEN), Instruction(_RETURN, 0, 0, DEAF)
_X_IS_THE_TCP_HEADER = {
    4: [
        Instruction(_LOAD_OCTET, 0, 0, NETWORK_HEADER),
        Instruction(_AND, 0, 0, 0x0F),
        Instruction(_SHIFT, 0, 0, 2),
        Instruction(_TO_X, 0, 0, 0),
    ],
    6: [
        Instruction(_LOAD_OCTET, 0, 0, NETWORK_HEADER + _NEXT_HEADER),
        Instruction(_IF_EQUAL, 1, 0, _TCP),
        _IGNORE,
        Instruction(_LOAD_X, 0, 0, _IPV6_OCTETS),
    ],
}
"""By IP version. A SYN with IPv6 extension headers opens nothing."""


def program(tokens: Collection[int], version: int) -> list[Instruction]:
    """What has a SYN with one of *tokens*, at most `TOKENS_AT_MOST`, heard by `OPEN`, and all else by `DEAF`.

    *version* is the one of IP, 4 or 6.
    """
    if not tokens:
        return [_IGNORE]
    return [
        *_X_IS_THE_TCP_HEADER[version],
        Instruction(_LOAD_OCTET_AT, 0, 0, NETWORK_HEADER + _CONTROL),
        Instruction(_AND, 0, 0, _FIN_SYN_RST_ACK),
        Instruction(_IF_EQUAL, 1, 0, _SYN),
        _IGNORE,
        Instruction(_LOAD_WORD_AT, 0, 0, NETWORK_HEADER + _SEQ),
        *_search(sorted(tokens)),
    ]


def _search(tokens: Sequence[int]) -> list[Instruction]:
    """What tells whether the accumulator is one of *tokens*, which are sorted."""
    if len(tokens) <= _LEAF:
        count = len(tokens)
        found = [Instruction(_IF_EQUAL, count - at, 0, token) for at, token in enumerate(tokens)]
        return [*found, _IGNORE, _HEAR]
    middle = len(tokens) // 2
    lower, upper = _search(tokens[:middle]), _search(tokens[middle:])
    if len(lower) <= _FARTHEST:
        return [Instruction(_IF_NOT_LESS, len(lower), 0, tokens[middle]), *lower, *upper]
    far = [Instruction(_IF_NOT_LESS, 0, 1, tokens[middle]), Instruction(_JUMP, 0, 0, len(lower))]
    return [*far, *lower, *upper]


def assembled(instructions: Sequence[Instruction]) -> bytes:
    """*instructions* as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)


def listing(instructions: Sequence[Instruction]) -> str:
    """*instructions* for who audits them, a line each, jumps with their targets."""
    lines = []
    for at, (code, if_true, if_false, k) in enumerate(instructions):
        said = _WORDS[code].format(f"{k:#x}")
        if code == _JUMP:
            said += f" {at + 1 + k}"
        elif code in (_IF_EQUAL, _IF_NOT_LESS):
            said += f", {at + 1 + if_true}, {at + 1 + if_false}"
        lines.append(f"{at}: {said}")
    return "\n".join(lines)
