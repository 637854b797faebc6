"""`torknock reflect`: tells each client how its SYN arrived, for `torknock check path`."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address

import click

from torknock.cli.in_reactor import installed
from torknock.cli.options import say
from torknock.client.path import reflect as reflecting
from torknock.errors import TorknockError
from torknock.kernel.ipv6 import NO_IPV6
from torknock.protocol.bridge_line import LineError, parse_address, write_address


class CannotReflect(TorknockError):
    """The port cannot be listened on."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"cannot listen on {where}: {reason}", "name another address or port with --listen")


def where(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """The address and port that *text* is. Raises `click.BadParameter`."""
    try:
        return parse_address(text)
    except LineError as error:
        raise click.BadParameter("name an address and a port, such as 0.0.0.0:4430 or [::]:4430") from error


@click.command(epilog="Example: torknock reflect --listen 192.0.2.7:4430")
@click.option(
    "--listen", type=where, default="0.0.0.0:4430", show_default=True, metavar="IP:PORT",
    help="Where to listen.",
)  # fmt: skip
def reflect(listen: tuple[IPv4Address | IPv6Address, int]) -> None:
    """Listen on an open TCP port, and tell each client how its SYN arrived.

    For `torknock check path` at the other end; needs no privilege. Anyone can find this port, and its answer shows that
    torknock is here. Use it where no bridge is to be hidden, and end it with Ctrl-C when the path is checked.
    """
    reactor = installed()
    address, port = listen
    try:
        listening = reflecting(reactor, str(address), port)
    except OSError as error:
        reason = NO_IPV6 if error.errno == errno.EAFNOSUPPORT else error.strerror or type(error).__name__
        raise CannotReflect(write_address(address, port), reason) from error
    bound: int = getattr(listening.getHost(), "port", port)
    say(f"reflecting on {write_address(address, bound)}, an open port that anyone can find")
    reactor.run()
