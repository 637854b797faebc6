"""TLS 1.3's exporter, for a TLS library that has none but tells its secret (RFC 8446 §7.5)."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.hashes import SHA256, SHA384, Hash, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from torknock.errors import TorknockError


class UnknownCipher(TorknockError):
    """A cipher suite that TLS 1.3 does not have (RFC 8446 §B.4)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no cipher suite of TLS 1.3: {name[:60]}")


def hash_of(cipher: str) -> HashAlgorithm:
    """The hash of the TLS 1.3 cipher suite *cipher*, by its registered name. Raises `UnknownCipher`."""
    for ending, algorithm in (("_SHA256", SHA256()), ("_SHA384", SHA384())):
        if cipher.startswith("TLS_") and cipher.endswith(ending):
            return algorithm
    raise UnknownCipher(cipher)


def exported(algorithm: HashAlgorithm, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """*length* octets of keying material for *label* and *context*, out of the `exporter_secret` *secret*."""
    derived = _expand_label(algorithm, secret, label, _digest(algorithm, b""), algorithm.digest_size)
    return _expand_label(algorithm, derived, b"exporter", _digest(algorithm, context), length)


def _expand_label(algorithm: HashAlgorithm, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 §7.1)."""
    name = b"tls13 " + label
    info = struct.pack("!HB", length, len(name)) + name + bytes([len(context)]) + context
    return HKDFExpand(algorithm, length, info).derive(secret)


def _digest(algorithm: HashAlgorithm, data: bytes) -> bytes:
    digest = Hash(algorithm)
    digest.update(data)
    return digest.finalize()
