"""The bridge's TLS key: a new one, its pin, and the one in a keyring's file."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from torknock.keyring.file import KeyringUnreadable


def new_key() -> bytes:
    """A P-256 key, PKCS #8 in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def key_in(database: sqlite3.Connection) -> bytes:
    """The key that *database* has, empty if it has none."""
    row = database.execute("SELECT private_key FROM bridge").fetchone()
    return row[0] if row else b""


def pin_of(private_key: bytes, directory: Path) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo in DER (protocol.md §2.1).

    Raises `KeyringUnreadable`, which names *directory*, if *private_key* is none.
    """
    try:
        public = load_der_private_key(private_key, None).public_key()
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise KeyringUnreadable(directory, "the bridge's key in it is damaged") from None
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
