"""`torknock gate`: the privileged service that guards ports for bridges."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from torknock.cli.service_options import socket_option, without_openssl
from torknock.kernel.descriptor_limit import OF_A_PEER, places, raise_descriptor_limit
from torknock.service import GATE_SOCKET, doors
from torknock.service.access import ACCESS, AccessList


@click.command(epilog="Example: torknock gate --access /etc/torknock/gate.toml")
@socket_option(GATE_SOCKET)
@click.option(
    "--access", type=click.Path(path_type=Path), default=ACCESS, show_default=True, metavar="FILE",
    help="Which doors may be guarded, and by which users.",
)  # fmt: skip
@click.option("--user", multiple=True, hidden=True, expose_value=False)  # in units of versions without an access list
def gate(path: str, access: Path) -> None:
    """Guard ports for bridges that may not do so themselves.

    Needs CAP_NET_ADMIN and no other privilege; the units of contrib/systemd start it with that. It guards what root
    lists in the access list, a file that root alone can write, and nothing else.
    """
    without_openssl()
    from torknock.cli.in_reactor import installed
    from torknock.privileged.gate.kernel import Kernel
    from torknock.privileged.gate.service import gate_service
    from torknock.service.listener import listener
    from torknock.service.process import serve

    peers = places(raise_descriptor_limit(), OF_A_PEER)
    reactor = installed()
    listening = listener(path, os.environ, os.getpid())
    serve(reactor, gate_service(Kernel(reactor), AccessList(access), doors(path), peers), listening, sys.stderr)
