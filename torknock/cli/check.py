"""`torknock check`: whether a line opens its bridge, the bridge is hidden, and the path keeps a knock intact."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NoReturn

import click

from torknock.cli.findings import in_json, in_text
from torknock.cli.in_reactor import in_reactor, installed
from torknock.cli.options import address, helper_option, read_bridge_line, say
from torknock.client.path import PathUnknown, Seen, Sent, Verdict, ask, judge
from torknock.operate.finding import Finding, exit_status
from torknock.protocol.bridge_line import BridgeLine
from torknock.service import DIAL_SOCKET


class _LineOrVerb(click.Group):
    """A group whose first argument is a bridge line if it is no verb of the group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((arg for arg in args if arg == "-" or not arg.startswith("-")), None)
        if first is not None and first not in self.commands:
            args = ["line", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_LineOrVerb, epilog='Example: torknock check "Bridge torknock 192.0.2.7:443 4352E... key=... pin=..."')
def check() -> None:
    """Check, from outside, whether a line opens its bridge.

    `torknock check LINE` is short for `torknock check line LINE`.
    """


@check.command(epilog="Example: torknock check line - < line.txt")
@click.argument("bridge_line", nargs=-1, required=True)
@click.option(
    "--as-stranger",
    is_flag=True,
    help="First send SYNs without a token, as a scanner would, to the bridge's port and to three random ports of its "
    "host: is the bridge hidden? To anyone who watches the bridge or this network, this shows that this host's address "
    "knows the bridge. Do not use it from an address whose user must stay unknown.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@helper_option(DIAL_SOCKET)
def line(bridge_line: tuple[str, ...], as_stranger: bool, as_json: bool, helper: str) -> None:
    """Check whether a line opens its bridge, and tor answers behind it.

    Give the line in quotation marks, or - to read it from stdin, which keeps it out of the list of processes and of the
    shell's history. To the network this looks like a tor client that uses the line once: the first SYN is the knock
    itself, and nothing else is sent. A bridge that does not let the line in is tried for up to three minutes, with no
    more SYNs than tor would send. The exit status is 0 if everything is ok, 1 if something is not, 2 if something could
    not be checked.
    """
    findings = _findings(read_bridge_line(bridge_line), helper, as_stranger)
    say(in_json(findings) if as_json else in_text(findings))
    raise click.exceptions.Exit(exit_status(finding.state for finding in findings))


def _findings(bridge_line: BridgeLine, helper: str, as_stranger: bool) -> list[Finding]:
    from torknock.client.choose_dialer import choose_dialer
    from torknock.client.knocker import Knocker
    from torknock.client.memory import Memory
    from torknock.client.reach import Bridges
    from torknock.client.stealth import StealthKnocker
    from torknock.operate.check_bridge import check, check_as_stranger

    reactor = installed()
    chance = secrets.SystemRandom()
    with tempfile.TemporaryDirectory(prefix="torknock-") as directory:  # no trace of what was checked is left
        memory = Memory(Path(directory))
        dialer = choose_dialer(reactor, helper)
        knocker = Knocker(dialer, reactor, time.time, chance, memory)
        bridges = Bridges(reactor, knocker, StealthKnocker(dialer, reactor, chance), chance)

        async def checked() -> list[Finding]:
            findings = await check_as_stranger(reactor, bridge_line, chance) if as_stranger else []
            bridge = bridge_line.line, str(bridge_line.address), bridge_line.port
            endpoint, minutes_slow = bridges.endpoint(*bridge), partial(bridges.minutes_slow, *bridge)
            return findings + await check(reactor, bridge_line, endpoint, minutes_slow)

        try:
            findings = in_reactor(reactor, checked())
        finally:
            memory.close()
    if findings is None:
        raise KeyboardInterrupt
    return findings


@check.command(epilog="Example: torknock check path 192.0.2.7:4430")
@click.argument("reflector", type=address, metavar="IP:PORT")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def path(reflector: tuple[IPv4Address | IPv6Address, int], as_json: bool) -> None:
    """Check whether a device on the path rewrites sequence numbers or timestamps.

    `torknock reflect` must run at IP:PORT. The exit status is 0 if nothing is rewritten, 1 if something is, 2 if this
    could not be checked.
    """
    reactor = installed()
    host, port = str(reflector[0]), reflector[1]
    try:
        exchanged = in_reactor(reactor, ask(reactor, host, port, 1 + secrets.randbelow(2**32 - 1)))
    except PathUnknown as error:
        _say_verdict(Verdict.UNKNOWN, str(error), None, None, as_json)
    else:
        if exchanged is None:
            raise KeyboardInterrupt
        sent, seen = exchanged
        _say_verdict(*judge(sent, seen), sent, seen, as_json)


def _say_verdict(verdict: Verdict, sentence: str, sent: Sent | None, seen: Seen | None, as_json: bool) -> NoReturn:
    """Print the *verdict*, and end with it as the exit status."""
    values = {
        "verdict": verdict.name.lower(),
        "sentence": sentence,
        "isn_sent": sent and sent.isn,
        "isn_seen": seen and seen.isn,
        "tsval_sent": sent and sent.tsval,
        "tsval_late_ms": sent and sent.late_ms,
        "tsval_seen": seen and seen.tsval,
    }
    say(json.dumps(values) if as_json else sentence)
    raise click.exceptions.Exit(verdict)
