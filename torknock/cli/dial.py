"""`torknock dial`: the privileged service that knocks for clients."""

from __future__ import annotations

import os
import sys

import click

from torknock.dial.service import helper
from torknock.helper import DIAL_SOCKET
from torknock.helper.listener import listener
from torknock.helper.peers import Guests
from torknock.helper.serving import serve


@click.command(epilog="Example: torknock dial --user debian-tor --group torknock")
@click.option(
    "--socket", "path", default=DIAL_SOCKET, show_default=True, metavar="PATH",
    help="Where to listen, unless systemd passes a socket.",
)  # fmt: skip
@click.option("--user", "users", multiple=True, metavar="NAME", help="A user who may ask; may be repeated.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group whose members may; may be repeated.")
def dial(path: str, users: tuple[str, ...], groups: tuple[str, ...]) -> None:
    """Knock for programs that may not choose the ISN of a SYN themselves.

    Needs CAP_NET_ADMIN and no other privilege; the units of contrib/systemd start it with that. Root may always ask.
    """
    from twisted.internet import reactor

    listening = listener(path, os.environ, os.getpid())
    serve(reactor, helper(reactor, Guests.named(users, groups)), listening, sys.stderr)
