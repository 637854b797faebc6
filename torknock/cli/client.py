"""`torknock client`: the client's transport."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

import click


@click.command(epilog="In torrc:  ClientTransportPlugin torknock exec /usr/local/bin/torknock client")
def client() -> None:
    """The client's transport; tor starts it."""
    from twisted.internet import reactor

    from torknock.transport.client import serve

    serve(reactor, os.environ, time.time, version("torknock"))
