"""Tests of torknock.protocol.proof."""

from __future__ import annotations

import hashlib
import hmac
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.strategies import pieces
from tests.unit.channel import peer
from torknock.protocol.proof import EXPORTER_LABEL, HelloReader, WrongHello, exporter_context, hello, proof, whose
from torknock.protocol.token import proof_key

PROOF = bytes(range(32))


class ProofTests(SynchronousTestCase):
    """The proof as protocol.md §3.3 has it."""

    def test_a_proof_is_what_hmac_and_hkdf_make_by_hand(self) -> None:
        """A proof under known inputs is what hmac and HKDF by hand make of them."""
        key = proof_key(b"s" * 32, b"p" * 32)
        self.assertEqual(proof(key, b"e" * 32), peer.proof(b"s" * 32, b"p" * 32, b"e" * 32))
        self.assertEqual(proof(key, b"e" * 32), hmac.new(key, b"e" * 32, hashlib.sha256).digest())

    def test_label_and_context_are_those_of_the_protocol(self) -> None:
        """Label and context are those of the text."""
        self.assertEqual((EXPORTER_LABEL, exporter_context(0x01020304)), (b"EXPORTER-torknock-1", b"\1\2\3\4"))

    @given(st.lists(st.binary(min_size=32, max_size=32), unique=True, max_size=4), st.data())
    def test_the_right_candidate_is_found(self, keys: list[bytes], data: st.DataObject) -> None:
        """Among several candidates the one whose key made the proof is named, wherever it stands."""
        for index, key in enumerate(keys):
            self.assertEqual(whose(keys, b"e" * 32, hmac.digest(key, b"e" * 32, "sha256")), index)
        self.assertIsNone(whose(keys, b"e" * 32, data.draw(st.binary(min_size=32, max_size=32))))


class HelloTests(SynchronousTestCase):
    """The hello's octets, and their reader."""

    def test_proof_length_and_padding_follow_one_another(self) -> None:
        """Proof, length and padding follow one another."""
        self.assertEqual(hello(PROOF, b"abc"), PROOF + b"\0\3abc")

    def test_wrong_lengths_are_not_written(self) -> None:
        """Neither a short proof nor 1,025 octets of padding can be sent by mistake."""
        self.assertRaises(ValueError, hello, PROOF[:31], b"")
        self.assertRaises(ValueError, hello, PROOF, bytes(1025))

    def test_a_hello_with_all_the_padding_there_may_be_is_read(self) -> None:
        """1,024 octets, as protocol.md §3.3 has it."""
        reader = HelloReader()
        reader.feed(hello(PROOF, bytes(1024)) + b"rest")
        self.assertEqual((reader.proof, reader.rest), (PROOF, b"rest"))

    @given(st.sampled_from([0, 1, 1023, 1024]) | st.integers(0, 1024), st.binary(max_size=40), st.data())
    def test_the_cut_does_not_matter(self, pad: int, rest: bytes, data: st.DataObject) -> None:
        """However a hello is cut, the proof and what follows come out."""
        reader = HelloReader()
        for piece in data.draw(pieces(peer.hello(PROOF, pad) + rest)):
            reader.feed(piece)
        self.assertEqual((reader.proof, reader.rest), (PROOF, rest))

    @given(st.binary(max_size=1100))
    def test_an_incomplete_hello_is_waited_for(self, octets: bytes) -> None:
        """Any octets are a hello, the beginning of one, or `WrongHello`."""
        reader = HelloReader()
        pad = struct.unpack("!H", octets[32:34])[0] if len(octets) >= 34 else 0
        if pad > 1024:
            self.assertRaises(WrongHello, reader.feed, octets)
            return
        reader.feed(octets)
        self.assertEqual(reader.proof, octets[:32] if len(octets) >= 34 + pad else None)

    @given(st.integers(1025, 65535), st.data())
    def test_too_much_padding_is_wrong_at_once(self, pad: int, data: st.DataObject) -> None:
        """A padding above 1,024 octets is refused when its length is read, in whatever pieces it came."""
        reader = HelloReader()
        with self.assertRaises(WrongHello):
            for piece in [*data.draw(pieces(PROOF + struct.pack("!H", pad))), b""]:
                reader.feed(piece)
