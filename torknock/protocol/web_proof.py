"""The proofs of channel `web`, which both ends give in the heads of an HTTP upgrade (protocol.md §3a). Pure."""

from __future__ import annotations

import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass

NONCE = 16
"""Octets of `Sec-WebSocket-Key` (RFC 6455 §4.1)."""

PROOF = 32
SPKI_HASH = 32

_CLIENT, _SERVER = b"torknock/2 web client\0", b"torknock/2 web server\0"
_WRITTEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Session:
    """What both proofs are bound to."""

    isn: int
    spki_hash: bytes
    """SHA-256 of the DER SubjectPublicKeyInfo of the certificate: the one that the client saw, or the site's."""
    nonce: bytes


def client_proof(key: bytes, session: Session) -> bytes:
    """The proof of a client under the line's `torknock.protocol.token.proof_key`: 32 octets.

    Raises `ValueError` if a length of *session* is not what it must be.
    """
    return _proof(key, _CLIENT, session)


def server_proof(key: bytes, session: Session) -> bytes:
    """The bridge's answer to a right `client_proof`: 32 octets. Raises as that does."""
    return _proof(key, _SERVER, session)


def prover(
    keys: Sequence[bytes], isn: int, spki_hashes: Collection[bytes], nonce: bytes, given: bytes
) -> tuple[int, Session] | None:
    """The index of the key that *given* was made with, and the session that it is bound to; None if there is none.

    Every key is compared with every key of the site's, each in constant time.
    """
    found = None
    for spki_hash in spki_hashes:
        session = Session(isn, spki_hash, nonce)
        for index, key in enumerate(keys):
            if hmac.compare_digest(client_proof(key, session), given):
                found = index, session
    return found


def write(proof: bytes) -> str:
    """*proof* as text for a header field: base64url without padding, 43 characters."""
    return urlsafe_b64encode(proof).decode("ascii").rstrip("=")


def read(text: str) -> bytes | None:
    """The proof that `write` wrote as *text*; None if it is none."""
    if not _WRITTEN.fullmatch(text):
        return None
    octets = urlsafe_b64decode(text + "=")
    return octets if hmac.compare_digest(write(octets), text) else None


def _proof(key: bytes, label: bytes, session: Session) -> bytes:
    if len(session.spki_hash) != SPKI_HASH or len(session.nonce) != NONCE:
        raise ValueError(f"a hash of a key is {SPKI_HASH} octets, a nonce {NONCE}")
    return hmac.digest(key, label + struct.pack("!I", session.isn) + session.spki_hash + session.nonce, "sha256")
