"""`torknock dial`: the privileged service that knocks for clients."""

from __future__ import annotations

import os
import sys

import click

from torknock.cli.service_options import guests_options, socket_option, without_openssl
from torknock.kernel.descriptor_limit import OF_A_PEER, places, raise_descriptor_limit
from torknock.service import DIAL_SOCKET
from torknock.service.peers import Guests


@click.command(epilog="Example: torknock dial --user debian-tor --group torknock")
@socket_option(DIAL_SOCKET)
@guests_options
def dial(path: str, users: tuple[str, ...], groups: tuple[str, ...]) -> None:
    """Knock for programs that may not choose the ISN of a SYN themselves.

    Needs CAP_NET_ADMIN and no other privilege; the units of contrib/systemd start it with that. Root may always ask.
    Each other user may have 32 dials waiting, and make 200 at once and 5 a second in addition.
    """
    without_openssl()
    from torknock.cli.in_reactor import installed
    from torknock.privileged.dial.service import dial_service
    from torknock.service.listener import listener
    from torknock.service.process import serve

    peers = places(raise_descriptor_limit(), OF_A_PEER)
    reactor = installed()
    listening = listener(path, os.environ, os.getpid())
    serve(reactor, dial_service(reactor, Guests.named(users, groups), peers), listening, sys.stderr)
