"""Channel `tls`: TLS 1.3 to the bridge's key, a proof of the secret inside, else silence (protocol.md §3).

What both ends share. The client's end is `tls_client`, the bridge's `tls_server`.
"""

from __future__ import annotations

from typing import Protocol

from OpenSSL import SSL

ALPN = ("h2", "http/1.1")
"""What the client offers; the bridge chooses the last."""


class Chance(Protocol):
    """What is asked of `random.SystemRandom`."""

    def randint(self, a: int, b: int) -> int:
        """A number from *a* to *b*, both included."""

    def randbytes(self, n: int) -> bytes:
        """*n* random octets."""

    def uniform(self, a: float, b: float) -> float:
        """A number between *a* and *b*."""


def tls_1_3(method: int) -> SSL.Context:
    """OpenSSL's settings for one end, *method*, of a connection: TLS 1.3 or nothing, and no buffers while idle."""
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context
