"""`torknock server`: the bridge's transport."""

from __future__ import annotations

import os
import time
from importlib.metadata import version

import click

from torknock.channel.configuration import OPENSSL_CONF
from torknock.cli.options import helper_option
from torknock.kernel.descriptor_limit import raise_descriptor_limit
from torknock.service import GATE_SOCKET


@click.command(epilog="In torrc: ServerTransportPlugin torknock exec /usr/local/bin/torknock server")
@helper_option(GATE_SOCKET)
def server(helper: str) -> None:
    """The bridge's transport; tor starts it.

    It guards the port itself if it has CAP_NET_ADMIN, else through the torknock gate service, else with a filter on its
    own listening socket.
    """
    os.environ["OPENSSL_CONF"] = str(OPENSSL_CONF)  # read when OpenSSL is loaded, by what is imported next
    from torknock.bridge.transport import serve
    from torknock.cli.in_reactor import installed

    serve(installed(), os.environ, time.time, version("torknock"), helper, raise_descriptor_limit())
