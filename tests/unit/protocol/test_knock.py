"""Tests of torknock.protocol.knock."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.knock import Authenticators, integrity_code, isn

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "knock_vectors.json").read_text())
U32 = st.integers(0, 2**32 - 1)
ADDRESSES = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
LINES = st.lists(st.tuples(st.binary(min_size=1, max_size=70), st.integers(0, 3)), max_size=4)
SYNS = st.lists(st.tuples(ADDRESSES, st.integers(0, 65535), U32, U32), max_size=4)


class KnockTests(SynchronousTestCase):
    """What the patched kernels send."""

    def test_the_authors_own_answers(self) -> None:
        """All of them, the draft's four among them: IPv4 and IPv6, with and without payload."""
        self.assertEqual(len(VECTORS), 64)
        for vector in VECTORS:
            family = socket.AF_INET if vector["family"] == 4 else socket.AF_INET6
            address, secret = socket.inet_pton(family, vector["address"]), vector["secret"].encode()
            payload = vector["payload"]
            code = None if payload is None else integrity_code(secret, payload.encode())
            self.assertEqual(isn(secret, address, vector["port"], vector["tsval"], code), vector["isn"])

    @given(LINES, SYNS)
    def test_side_by_side_is_one_by_one(
        self, lines: list[tuple[bytes, int]], syns: list[tuple[bytes, int, int, int]]
    ) -> None:
        """A SYN with a line's ISN is found, and only then, wherever it stands among others."""
        compared = Authenticators(lines)
        for right in range(len(lines)):
            knocks = []
            for address, port, tsval, number in syns:
                code = number & 0xFFFF if lines[right][1] else None
                knocks.append((address, port, tsval, isn(lines[right][0], address, port, tsval, code)))
            found = set(zip(*(indices.tolist() for indices in compared.matches(knocks)), strict=True))
            self.assertTrue({(right, number) for number in range(len(syns))} <= found)
            expected = {
                (line, number)
                for line, (secret, size) in enumerate(lines)
                for number, (address, port, tsval, given_isn) in enumerate(knocks)
                if isn(secret, address, port, tsval, given_isn & 0xFFFF if size else None) == given_isn
            }
            self.assertEqual(found, expected)

    def test_a_secret_counts_up_to_64_octets(self) -> None:
        """A longer one is cut, a shorter one padded with zeros."""
        address = bytes([192, 0, 2, 7])
        self.assertEqual(isn(b"s" * 64, address, 443, 1), isn(b"s" * 70, address, 443, 1))
        self.assertEqual(isn(b"s", address, 443, 1), isn(b"s" + bytes(63), address, 443, 1))
