"""`torknock client`: the client's transport."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

import click

from torknock.cli.options import helper_option
from torknock.helper import DIAL_SOCKET


@click.command(epilog="In torrc: ClientTransportPlugin torknock exec /usr/local/bin/torknock client")
@helper_option(DIAL_SOCKET)
def client(helper: str) -> None:
    """The client's transport; tor starts it.

    It knocks itself if it has CAP_NET_ADMIN, else through the service of torknock dial.
    """
    from twisted.internet import reactor

    from torknock.transport.client import serve

    serve(reactor, os.environ, time.time, version("torknock"), helper)
