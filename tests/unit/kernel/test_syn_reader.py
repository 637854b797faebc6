"""Tests of torknock.kernel.syn_reader: SYNs out of datagrams, and those that the kernel has saved."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.capture import Packet, build
from torknock.kernel.segment import BadDatagram
from torknock.kernel.socket_options import TCP_SAVE_SYN
from torknock.kernel.syn_reader import SavedSYNs, SYNReader

WORDS = st.integers(0, 2**32 - 1)


class SYNReaderTests(SynchronousTestCase):
    """`SYNReader`."""

    @given(WORDS, st.none() | WORDS, st.sampled_from([("192.0.2.1", "192.0.2.7"), ("2001:db8::1", "2001:db8::7")]))
    def test_a_syn_has_its_numbers(self, isn: int, tsval: int | None, ends: tuple[str, str]) -> None:
        """Over IPv4 and IPv6, with IP options and extension headers; one to another port is none."""
        packet = Packet(*ends, 40000, 443, seq=isn)
        if tsval is not None:
            packet = replace(packet, options=b"\x01\x01\x08\x0a" + tsval.to_bytes(4) + bytes(4))
        more: dict[str, Any] = {"extensions": ((60, bytes(7)),)} if ":" in ends[0] else {"ip_options": b"\x01" * 4}
        for one in (packet, replace(packet, **more)):
            syn = SYNReader(443, verify=False).read(build(one))
            assert syn is not None
            self.assertEqual((syn.isn, syn.tsval, syn.source, syn.source_port), (isn, tsval, ends[0], 40000))
            self.assertIsNone(SYNReader(444, verify=False).read(build(one)))

    @given(st.binary(max_size=100), st.booleans())
    def test_any_octets_are_read_or_raise_bad_datagram(self, octets: bytes, verify: bool) -> None:
        """Nothing else comes of them."""
        with contextlib.suppress(BadDatagram):
            SYNReader(443, verify).read(octets)


class SavedSYNsTests(SynchronousTestCase):
    """`SavedSYNs`, of connections over loopback."""

    def test_a_saved_syn_is_handed_out_once(self) -> None:
        """It names the client's port; a second look, and a listener that saves none, are said in one line."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            syns = SavedSYNs(listener.getsockname()[1])
            for saves in (1, 0):
                listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, saves)
                client = socket.create_connection(listener.getsockname())
                accepted, address = listener.accept()
                with client, accepted, capturedLogs() as logs:
                    found = [syns.syn(accepted) for _ in range(2)]
                self.assertEqual([syn and syn.source_port for syn in found], [address[1] if saves else None, None])
                self.assertEqual(len(logs), 2 - saves)
