"""Tests of torknock.protocol.token."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.bridge_line import Line
from torknock.protocol.token import (
    EPOCH,
    FARTHEST,
    epoch_at,
    first_epoch,
    forward,
    proof_key,
    ratchet,
    seconds_valid,
    tokens,
)

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data" / "token_vectors.json").read_text())
VECTORS_2: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data" / "token_vectors_2.json").read_text())
OCTETS = st.binary(min_size=32, max_size=32)
EPOCHS = st.integers(0, 2**64 - 1)


def bridge_name(vector: dict[str, Any]) -> bytes:
    """What names the bridge of *vector*, worked out from the specification."""
    if "pin" in vector:
        return bytes.fromhex(vector["pin"])
    return hashlib.sha256(b"torknock/1 sni\0" + vector["sni"].encode()).digest()


def words(secret: bytes, name: bytes, epoch: int, n: int) -> tuple[int, ...]:
    """The words of protocol.md §2.2, by the one-step HKDF of `cryptography`."""
    info = b"token\0" + name + epoch.to_bytes(8, "big")
    return struct.unpack(f"!{n}I", HKDF(SHA256(), 4 * n, b"torknock/1", info).derive(secret))


class VectorTests(SynchronousTestCase):
    """The vectors that other implementations can use."""

    def same(self, isns: tuple[int, ...], vector: dict[str, Any]) -> None:
        """Fail unless *isns* are those of *vector*."""
        if "tokens" in vector:
            self.assertEqual(list(isns), vector["tokens"], vector["case"])
        else:
            digest = hashlib.sha256(struct.pack(f"!{len(isns)}I", *isns)).hexdigest()
            found = (len(isns), isns[0], isns[-1], digest)
            self.assertEqual(found, tuple(vector[key] for key in ("count", "first", "last", "sha256")), vector["case"])

    def test_the_vectors_are_the_specifications(self) -> None:
        """They are what an independent HKDF says."""
        for vector in VECTORS:
            secret, epoch = bytes.fromhex(vector["secret"]), int(vector["epoch"])
            derived = words(secret, bridge_name(vector), epoch, vector["n"])
            self.same(tuple(word for word in derived if word != 0), vector)

    def test_our_tokens_are_the_vectors(self) -> None:
        """So are ours, for a line with a pin and for one with a name alone."""
        for vector in VECTORS:
            pin = bytes.fromhex(vector["pin"]) if "pin" in vector else None
            line = Line(bytes.fromhex(vector["secret"]), pin, vector["n"], vector.get("sni"))
            self.same(tokens(line.secret, line.bridge_name, int(vector["epoch"]), line.n), vector)

    def test_a_derived_0_is_left_out(self) -> None:
        """A kernel cannot be asked for it, so that 1,023 tokens remain; the others keep their order."""
        (vector,) = (vector for vector in VECTORS if vector["case"] == "a derived 0")
        derived = words(bytes.fromhex(vector["secret"]), bridge_name(vector), int(vector["epoch"]), vector["n"])
        self.assertEqual(derived.index(0), 277)
        ours = tokens(bytes.fromhex(vector["secret"]), bridge_name(vector), int(vector["epoch"]), vector["n"])
        self.assertEqual(ours, derived[:277] + derived[278:])


class RatchetTests(SynchronousTestCase):
    """Secrets of version 2, which go forward and never back (protocol.md §2.2)."""

    def test_our_tokens_are_the_vectors(self) -> None:
        """So are the proof's key, and what the secret has become; from any state on the way."""
        for vector in VECTORS_2:
            pin, epoch, n = bytes.fromhex(vector["pin"]), int(vector["epoch"]), vector["n"]
            first, half = int(vector["first_epoch"]), (int(vector["first_epoch"]) + epoch) // 2
            secret = ratchet(bytes.fromhex(vector["link"]), bytes.fromhex(vector["day_key"]), first)
            then = ratchet(bytes.fromhex(vector["link_then"]), bytes.fromhex(vector["day_key_then"]), epoch)
            self.assertEqual(first_epoch(secret), first)
            self.assertEqual(forward(secret, epoch), then, vector["case"])
            self.assertEqual(forward(forward(secret, half), epoch), then, vector["case"])
            self.assertEqual(proof_key(then, pin).hex(), vector["proof_key"])
            for state in (secret, forward(secret, half), then):
                isns = tokens(state, pin, epoch, n)
                if "tokens" in vector:
                    self.assertEqual(list(isns), vector["tokens"], vector["case"])
                else:
                    digest = hashlib.sha256(struct.pack(f"!{n}I", *isns)).hexdigest()
                    self.assertEqual(
                        (len(isns), isns[0], isns[-1], digest),
                        tuple(vector[key] for key in ("count", "first", "last", "sha256")),
                    )

    @given(st.integers(1, 2**40), st.integers(0, 3000))
    def test_nothing_goes_back(self, first: int, later: int) -> None:
        """What a secret has become derives nothing of earlier epochs, and holds no key that did."""
        secret = ratchet(b"l" * 32, b"d" * 32, first)
        then = forward(secret, first + later)
        self.assertEqual(first_epoch(then), first + later)
        self.assertEqual(forward(then, first), then)
        self.assertEqual(tokens(then, b"p" * 32, first + later - 1, 8), ())
        self.assertTrue(tokens(then, b"p" * 32, first + later, 8))
        if later:
            self.assertNotIn(b"l" * 32, then)
        self.assertEqual(b"d" * 32 in then, (first + later) // 288 == first // 288)

    def test_a_secret_of_version_1_stays(self) -> None:
        """Lines that were issued before work as they did."""
        self.assertEqual(forward(b"s" * 32, 7_000_000), b"s" * 32)
        self.assertEqual(first_epoch(b"s" * 32), 0)

    def test_no_date_takes_for_ever(self) -> None:
        """A wrong clock, or a wrong line, derives nothing beyond a century."""
        secret = ratchet(b"l" * 32, b"d" * 32, 7)
        self.assertEqual(tokens(secret, b"p" * 32, 2**64 - 1, 8), ())
        self.assertEqual(first_epoch(forward(secret, 2**64 - 1)), 7 + FARTHEST)


class TokenTests(SynchronousTestCase):
    """One-time tokens."""

    @given(OCTETS, OCTETS, EPOCHS, st.integers(1, 1024))
    def test_tokens_are_those_of_the_specification(self, secret: bytes, pin: bytes, epoch: int, n: int) -> None:
        """Whatever the inputs."""
        expected = tuple(word for word in words(secret, pin, epoch, n) if word)
        self.assertEqual(tokens(secret, pin, epoch, n), expected)

    def test_inputs_out_of_range_are_refused(self) -> None:
        """The error does not quote the secret."""
        good = b"s" * 32, b"p" * 32
        for secret, pin, n in [
            (b"s" * 31, b"p" * 32, 8),
            (b"s" * 33, b"p" * 32, 8),
            (b"s" * 32, b"", 8),
            (*good, 0),
            (*good, 1025),
        ]:
            error = self.assertRaises(ValueError, tokens, secret, pin, 0, n)
            self.assertNotIn("sss", str(error))

    def test_the_proofs_key_is_the_specifications(self) -> None:
        """It hangs on the secret and on the bridge (protocol.md §3.3)."""
        secret, pin = bytes(range(32)), bytes(range(32, 64))
        expected = HKDF(SHA256(), 32, b"torknock/1", b"proof\0" + pin).derive(secret)
        self.assertEqual(proof_key(secret, pin), expected)


class CalendarTests(SynchronousTestCase):
    """Epochs and how long they last."""

    def test_an_epoch_is_five_minutes(self) -> None:
        """They are counted from 1970."""
        self.assertEqual([epoch_at(time) for time in (0, 299.9, 300, 1_795_446_300)], [0, 0, 1, 5_984_821])

    @given(st.integers(1, 2**40))
    def test_a_token_is_valid_for_its_epoch_and_the_neighbours(self, epoch: int) -> None:
        """900 s from the beginning of the epoch before to the end of the one after."""
        self.assertEqual(seconds_valid(epoch, (epoch - 1) * EPOCH), 3 * EPOCH)
        self.assertEqual(seconds_valid(epoch, (epoch + 2) * EPOCH), 0)
