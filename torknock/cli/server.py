"""`torknock server`: the bridge's transport."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

import click

from torknock.channel.configuration import OPENSSL_CONF


@click.command(epilog="In torrc:  ServerTransportPlugin torknock exec /usr/local/bin/torknock server")
def server() -> None:
    """The bridge's transport; tor starts it."""
    os.environ["OPENSSL_CONF"] = str(OPENSSL_CONF)  # read when OpenSSL is loaded, by what is imported next
    from twisted.internet import reactor

    from torknock.transport.server import serve

    serve(reactor, os.environ, time.time, version("torknock"))
