"""What is used of `utls`, as types: it has none that mypy could read where it is not installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class BIO(Protocol):
    """`utls.MemoryBIO`."""

    pending: int
    """Octets that it holds."""

    def read(self, n: int, /) -> bytes:
        """At most *n* octets; b"" if there are none."""

    def write(self, data: bytes, /) -> int:
        """Keep *data*."""


class Certificate(Protocol):
    """`utls.Certificate`."""

    ENCODING_DER: int

    def public_bytes(self, encoding: int, /) -> bytes:
        """Its octets in that encoding."""


class Connection(Protocol):
    """`utls.SSLObject`. Its methods raise `utls.SSLError`, and `utls.SSLWantReadError` if octets of the peer's lack."""

    def do_handshake(self) -> None:
        """Go on with the handshake."""

    def read(self, n: int, /) -> bytes:
        """At most *n* octets of the peer's; b"" behind its `close_notify`."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Encrypt *data*, or what it begins with; how many octets."""

    def unwrap(self) -> bool:
        """Write `close_notify`."""

    def cipher(self) -> tuple[str, str, int] | None:
        """The name of the cipher suite, the protocol and the bits, once the server has chosen; else None."""

    def getpeercert(self, binary_form: bool, /) -> bytes | None:
        """The peer's own certificate, in DER if *binary_form*."""

    def get_unverified_chain(self) -> Sequence[Certificate]:
        """What the peer has shown, its own certificate first."""


class Fingerprint(Protocol):
    """`utls.Fingerprint`: what a ClientHello is like."""

    def to_dict(self) -> dict[str, Any]:
        """Its settings by name."""


class Fingerprints(Protocol):
    """The class `utls.Fingerprint`."""

    def from_preset(self, name: str, /) -> Fingerprint:
        """The profile of that name. Raises `ValueError`."""

    def from_dict(self, data: Mapping[str, Any], /) -> Fingerprint:
        """One with these settings."""


class Context(Protocol):
    """`utls.SSLContext`."""

    check_hostname: bool
    verify_mode: int
    keylog_filename: str | None
    """Is opened at once. Raises `utls.SSLError` if it cannot be."""

    def set_fingerprint(self, fingerprint: Fingerprint, /) -> None:
        """Have each connection's ClientHello be like that."""

    def wrap_bio(self, incoming: BIO, outgoing: BIO, *, server_hostname: str | None) -> Connection:
        """The client's end of a connection."""


class UTLS(Protocol):
    """The module."""

    PROTOCOL_TLS_CLIENT: int
    CERT_NONE: int
    SSLError: type[OSError]
    SSLWantReadError: type[OSError]
    Fingerprint: Fingerprints

    def SSLContext(self, protocol: int, /) -> Context:
        """Settings of connections."""

    def MemoryBIO(self) -> BIO:
        """Room for octets."""
