"""`torknock rules`: the ruleset that is loaded."""

from __future__ import annotations

import click

from torknock.cli.in_reactor import in_reactor, installed
from torknock.cli.options import say
from torknock.errors import TorknockError
from torknock.privileged.gate.kernel import Kernel
from torknock.privileged.gate.loaded import loaded_tables


class NothingLoaded(TorknockError):
    """No bridge guards a port here."""

    def __init__(self) -> None:
        super().__init__("no table of torknock is loaded", "start the bridge, or look in its network namespace")


@click.command(epilog="Example: torknock rules")
def rules() -> None:
    """Print the nftables ruleset that is loaded, tokens left out."""
    reactor = installed()
    tables = in_reactor(reactor, loaded_tables(Kernel(reactor)))
    if tables is None:
        raise KeyboardInterrupt
    if not tables:
        raise NothingLoaded
    say(tables.rstrip("\n"))
