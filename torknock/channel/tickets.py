"""Session tickets: a bridge sends none (protocol.md §3.1), which depends on how its process has loaded OpenSSL."""

from __future__ import annotations

import contextlib

from OpenSSL import SSL

from torknock.errors import TorknockError


class TicketsSent(TorknockError):
    """OpenSSL was loaded without the configuration that keeps a server from sending session tickets."""

    def __init__(self) -> None:
        super().__init__("TLS servers of this process send session tickets", "start it as `torknock server`")


def sends_tickets(context: SSL.Context) -> bool:
    """Whether a server with *context* goes on to send something of its own when the handshake is done."""
    server = SSL.Connection(context, None)
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    server.set_accept_state()
    client.set_connect_state()
    for speaker, listener in ((client, server), (server, client), (client, server)):
        _handshake(speaker)
        listener.bio_write(speaker.bio_read(1 << 16))
    _handshake(server)
    try:
        return bool(server.bio_read(1 << 16))
    except SSL.WantReadError:
        return False


def _handshake(connection: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
