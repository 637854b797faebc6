"""OpenSSL's TLS as the pump wants it."""

from __future__ import annotations

from cryptography import x509
from OpenSSL import SSL

from torknock.channel.bios import renew


class OpenSSLTLS(SSL.Connection):
    """pyOpenSSL's `Connection` with memory BIOs. Provides `torknock.channel.side.TLS`."""

    def __init__(self, context: SSL.Context) -> None:
        super().__init__(context, None)

    def peer_certificate(self) -> x509.Certificate | None:
        """See `TLS.peer_certificate`."""
        return self.get_peer_certificate(as_cryptography=True)

    def renew_bios(self) -> None:
        """See `TLS.renew_bios`."""
        renew(self)
