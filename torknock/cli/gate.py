"""`torknock gate`: the privileged service that guards ports for bridges."""

from __future__ import annotations

import os
import sys

import click

from torknock.cli.options import guests_options, socket_option
from torknock.gate.service import helper
from torknock.helper import GATE_SOCKET, doors
from torknock.helper.listener import listener
from torknock.helper.peers import Guests
from torknock.helper.serving import serve


@click.command(epilog="Example: torknock gate --user debian-tor")
@socket_option(GATE_SOCKET)
@guests_options
def gate(path: str, users: tuple[str, ...], groups: tuple[str, ...]) -> None:
    """Guard ports for bridges that may not do so themselves.

    Needs CAP_NET_ADMIN and no other privilege; the units of contrib/systemd start it with that. Root may always ask.
    """
    from twisted.internet import reactor

    listening = listener(path, os.environ, os.getpid())
    serve(reactor, helper(reactor, Guests.named(users, groups), doors(path)), listening, sys.stderr)
