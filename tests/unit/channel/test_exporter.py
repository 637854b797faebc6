"""Tests of torknock.channel.exporter; `test_browser` compares it with OpenSSL's."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from twisted.trial.unittest import SynchronousTestCase

from torknock.channel.exporter import UnknownCipher, exported, hash_of


def expand_label(name: str, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label out of hmac alone (RFC 5869 §2.3, RFC 8446 §7.1)."""
    label = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(label)]) + label + bytes([len(context)]) + context
    block, found, number = b"", b"", 0
    while len(found) < length:
        number += 1
        block = hmac.digest(secret, block + info + bytes([number]), name)
        found += block
    return found[:length]


class ExporterTests(SynchronousTestCase):
    """RFC 8446 §7.5."""

    def test_it_is_what_the_rfc_says(self) -> None:
        """By another implementation of it."""
        for algorithm, name in ((SHA256(), "sha256"), (SHA384(), "sha384")):
            secret = bytes(range(algorithm.digest_size))
            nothing, bound = (hashlib.new(name, octets).digest() for octets in (b"", b"context"))
            derived = expand_label(name, secret, b"EXPORTER-label", nothing, algorithm.digest_size)
            for length in (1, 32, 48, 100):
                expected = expand_label(name, derived, b"exporter", bound, length)
                self.assertEqual(exported(algorithm, secret, b"EXPORTER-label", b"context", length), expected)

    def test_hashes(self) -> None:
        """Of TLS 1.3's suites; no other has one here."""
        for suite, size in (
            ("TLS_AES_128_GCM_SHA256", 32), ("TLS_AES_256_GCM_SHA384", 48), ("TLS_CHACHA20_POLY1305_SHA256", 32),
        ):  # fmt: skip
            self.assertEqual(hash_of(suite).digest_size, size)
        for suite in ("ECDHE-RSA-AES256-SHA384", "TLS_AES_128_CCM_MD5", ""):
            self.assertRaises(UnknownCipher, hash_of, suite)
