"""`torknock check`: what stands in the way of a knock."""

from __future__ import annotations

import json
import secrets
from ipaddress import IPv4Address, IPv6Address

import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from torknock.cli.options import address, say
from torknock.path import PathUnknown, Seen, Sent, Verdict, ask, judge


@click.group()
def check() -> None:
    """What stands in the way of a knock."""


@check.command(epilog="Example: torknock check path 192.0.2.7:4430")
@click.argument("reflector", type=address, metavar="IP:PORT")
@click.option("--json", "as_json", is_flag=True, help="Say it as one JSON object.")
def path(reflector: tuple[IPv4Address | IPv6Address, int], as_json: bool) -> None:
    """Find out whether something on the way rewrites sequence numbers or timestamps.

    `torknock reflect` has to run at IP:PORT. The exit status is 0 if nothing is rewritten, 1 if something is, 2 if it
    could not be found out.
    """
    from twisted.internet import reactor

    outcome: list[tuple[Sent, Seen] | Failure] = []

    def begin() -> None:
        host, port = str(reflector[0]), reflector[1]
        asking = Deferred.fromCoroutine(ask(reactor, host, port, lambda: 1 + secrets.randbelow(2**32 - 1)))
        asking.addBoth(outcome.append)
        asking.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    sent: Sent | None = None
    seen: Seen | None = None
    verdict, sentence = Verdict.UNKNOWN, "this was broken off before anything was found out"
    for found in outcome:
        if not isinstance(found, Failure):
            sent, seen = found
            verdict, sentence = judge(sent, seen)
        elif found.check(PathUnknown):
            sentence = str(found.value)
        else:
            found.raiseException()
    if as_json:
        values = {
            "verdict": verdict.name.lower(),
            "sentence": sentence,
            "isn_sent": sent and sent.isn,
            "isn_seen": seen and seen.isn,
            "tsval_sent": sent and sent.tsval,
            "tsval_seen": seen and seen.tsval,
        }
        say(json.dumps(values))
    else:
        say(sentence)
    raise click.exceptions.Exit(verdict)
