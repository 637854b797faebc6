"""Tests of torknock.protocol.web_proof."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.web_proof import Session, client_proof, prover, read, server_proof, write

KEY = b"k" * 32
SESSION = Session(0x01020304, b"s" * 32, b"n" * 16)
KEYS = st.lists(st.binary(min_size=32, max_size=32), unique=True, min_size=1, max_size=4)


class WebProofTests(SynchronousTestCase):
    """The proofs as protocol.md §3a has them."""

    def test_vectors(self) -> None:
        """Each proof is the HMAC of what the text says, octet for octet."""
        for label, proof in ((b"client", client_proof), (b"server", server_proof)):
            message = b"torknock/2 web " + label + b"\0\1\2\3\4" + b"s" * 32 + b"n" * 16
            self.assertEqual(proof(KEY, SESSION), hmac.new(KEY, message, hashlib.sha256).digest())

    def test_each_input_is_bound(self) -> None:
        """Another ISN, key of the site, nonce, secret or side gives another proof."""
        others = [replace(SESSION, isn=5), replace(SESSION, spki_hash=b"t" * 32), replace(SESSION, nonce=b"m" * 16)]
        proofs = [proof(KEY, session) for proof in (client_proof, server_proof) for session in (SESSION, *others)]
        proofs += [client_proof(b"l" * 32, SESSION), server_proof(b"l" * 32, SESSION)]
        self.assertEqual(len(set(proofs)), len(proofs))

    def test_a_session_has_its_lengths(self) -> None:
        """So that no two sessions give one message."""
        for wrong in (replace(SESSION, spki_hash=b"s" * 31), replace(SESSION, nonce=b"n" * 17)):
            self.assertRaises(ValueError, client_proof, KEY, wrong)
            self.assertRaises(ValueError, server_proof, KEY, wrong)

    @given(KEYS, st.data())
    def test_the_right_candidate_is_found(self, keys: list[bytes], data: st.DataObject) -> None:
        """Whichever line and whichever key of the site; nothing else is."""
        hashes = [b"a" * 32, b"b" * 32]
        for index, key in enumerate(keys):
            for spki_hash in hashes:
                session = Session(7, spki_hash, b"n" * 16)
                self.assertEqual(prover(keys, 7, hashes, b"n" * 16, client_proof(key, session)), (index, session))
                self.assertIsNone(prover(keys, 8, hashes, b"n" * 16, client_proof(key, session)))
                self.assertIsNone(prover(keys, 7, [b"c" * 32], b"n" * 16, client_proof(key, session)))
                self.assertIsNone(prover(keys, 7, hashes, b"n" * 16, server_proof(key, session)))
        self.assertIsNone(prover(keys, 7, hashes, b"n" * 16, data.draw(st.binary(max_size=40))))
        self.assertIsNone(prover(keys, 7, [], b"n" * 16, b"p" * 32))

    @given(st.binary(min_size=32, max_size=32))
    def test_what_is_written_is_read(self, proof: bytes) -> None:
        """One text for each proof."""
        self.assertEqual(read(write(proof)), proof)

    @given(st.text(max_size=50) | st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True))
    def test_any_text_is_a_proof_or_none(self, text: str) -> None:
        """What is read is written the same way: no second spelling."""
        proof = read(text)
        if proof is not None:
            self.assertEqual((len(proof), write(proof)), (32, text))
