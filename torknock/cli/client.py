"""`torknock client`: the client's transport."""

from __future__ import annotations

import os
import pwd
import time
from importlib.metadata import version

import click

from torknock.cli.in_reactor import installed
from torknock.cli.options import helper_option
from torknock.kernel.descriptor_limit import raise_descriptor_limit
from torknock.service import DIAL_SOCKET


def uid(name: str) -> int:
    """The uid of the user *name*. Raises `click.BadParameter`."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise click.BadParameter(f"this host has no user {name}") from None


@click.command(epilog="In torrc: ClientTransportPlugin torknock exec /usr/local/bin/torknock client")
@helper_option(DIAL_SOCKET)
@click.option(
    "--socks-user",
    "socks_users",
    multiple=True,
    type=uid,
    metavar="NAME",
    help="A user who may use the SOCKS port besides torknock's own and root: tor's, if different. May be repeated.",
)
def client(helper: str, socks_users: tuple[int, ...]) -> None:
    """The client's transport; tor starts it.

    It knocks itself if it has CAP_NET_ADMIN, else through the torknock dial service. It closes connections of other
    local users to its SOCKS port without an answer.
    """
    from torknock.client.transport import serve

    serve(installed(), os.environ, time.time, version("torknock"), helper, raise_descriptor_limit(), socks_users)
