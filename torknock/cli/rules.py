"""`torknock rules`: the ruleset that is loaded."""

from __future__ import annotations

import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from torknock.cli.options import say
from torknock.errors import TorknockError
from torknock.privileged.gate.nftables import loaded_tables


class NothingLoaded(TorknockError):
    """No bridge guards a port here."""

    def __init__(self) -> None:
        super().__init__("no table of torknock is loaded", "start the bridge, or look in its network namespace")


@click.command(epilog="Example: torknock rules")
def rules() -> None:
    """Print the nftables ruleset that is loaded, tokens left out."""
    from twisted.internet import reactor

    outcome: list[str | Failure] = []

    def look() -> None:
        looking = Deferred.fromCoroutine(loaded_tables(reactor))
        looking.addBoth(outcome.append)
        looking.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(look)
    reactor.run()
    for tables in outcome:
        if isinstance(tables, Failure):
            tables.raiseException()
        elif tables:
            say(tables.rstrip("\n"))
        else:
            raise NothingLoaded
