"""Tests of how messages of a packet queue are read."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.privileged.gate.nfqueue import _PACKET, _attribute, _message, _parse

HEADER = _attribute(1, struct.pack("!IHBx", 7, 0x800, 1))
WHOLE = _message(_PACKET, 1, HEADER + _attribute(3, struct.pack("!I", 9)) + _attribute(10, b"a datagram"), 0)


class ParseTests(SynchronousTestCase):
    """Octets of netlink (linux/netfilter/nfnetlink_queue.h)."""

    def test_a_packet(self) -> None:
        """Its id, its mark and its datagram."""
        self.assertEqual(_parse(WHOLE), (7, 9, b"a datagram"))

    def test_one_that_is_cut_off(self) -> None:
        """Wherever it is, nothing is raised; without an id there is no packet."""
        for end in range(len(WHOLE)):
            found = _parse(WHOLE[:end])
            self.assertTrue(found is None or found[0] == 7, end)
        self.assertIsNone(_parse(_message(_PACKET, 1, _attribute(1, b""), 0)))

    @given(st.binary(max_size=100))
    def test_any_octets(self, octets: bytes) -> None:
        """Also behind the header of a packet."""
        _parse(octets)
        _parse(_message(_PACKET, 1, octets, 0))
