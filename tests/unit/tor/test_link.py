"""Tests of what tor says first on a link."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.strategies import pieces
from torknock.tor.link import Greeting, NotTor, Relay, proved


def cells(certificates: list[tuple[int, bytes]], versions: tuple[int, ...] = (3, 4, 5)) -> bytes:
    """What a tor says that speaks *versions* and has *certificates* (tor-spec)."""
    said = struct.pack(f"!HBH{len(versions)}H", 0, 7, 2 * len(versions), *versions)
    body = bytes([len(certificates)]) + b"".join(struct.pack("!BH", kind, len(it)) + it for kind, it in certificates)
    return said + struct.pack("!IBH", 0, 128, 3) + b"pad" + struct.pack("!IBH", 0, 129, len(body)) + body


CERTIFICATES = [(2, b"an identity"), (4, b"x" * 300), (7, b"")]


class GreetingTests(SynchronousTestCase):
    """Octets in, certificates out."""

    @given(pieces(cells(CERTIFICATES)))
    def test_the_cut_does_not_matter(self, heard: list[bytes]) -> None:
        """The certificates are there once the last octet is."""
        greeting = Greeting()
        found = [certificates for piece in heard if (certificates := greeting.feed(piece)) is not None]
        self.assertEqual(found[:1], [dict(CERTIFICATES)])

    @given(st.binary(max_size=600), st.booleans())
    def test_any_octets_are_certificates_or_not_tor(self, octets: bytes, begun: bool) -> None:
        """Nothing else is raised, before and after the versions are agreed."""
        with contextlib.suppress(NotTor):
            Greeting().feed((cells([])[:11] if begun else b"") + octets)

    def test_others_are_not_tor(self) -> None:
        """A web server, an old tor, and one that talks without end."""
        for said in (b"HTTP/1.1 400 Bad Request\r\n", cells([], versions=(1, 2, 3)), cells([])[:11] + bytes(514 * 20)):
            self.assertRaises(NotTor, Greeting().feed, said)

    @given(st.dictionaries(st.sampled_from([2, 4, 5, 7]), st.binary(max_size=200)))
    def test_certificates_that_prove_nothing(self, certificates: dict[int, bytes]) -> None:
        """Whatever stands in them, no fingerprint comes of it."""
        self.assertEqual(proved(certificates, b"the certificate of TLS"), Relay(None))
