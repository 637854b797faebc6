"""`torknock doctor`: checks every condition that a bridge or a client needs, and says what to do."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from torknock.cli.findings import in_json, in_text
from torknock.cli.in_reactor import in_reactor, installed
from torknock.cli.options import WordChoice, control_option, control_password, keyring_option, password_option, say
from torknock.operate.finding import Finding, exit_status
from torknock.operate.sides import Side

if TYPE_CHECKING:
    from torknock.operate.doctor.examine import Target


@click.command(epilog="Example: torknock doctor bridge")
@click.argument("side", type=WordChoice(Side), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--user", metavar="NAME", help="Check NAME's own tor, such as Tor Browser's.  [you, unless root]")
@control_option
@password_option
@keyring_option
@click.pass_context
def doctor(
    ctx: click.Context, side: Side | None, as_json: bool, user: str | None, control: str, asks: bool, keyring: Path
) -> None:
    """Check every condition that must hold for a bridge, or for a client.

    Without an argument, doctor finds out which of the two this host has. As an ordinary user, doctor client checks that
    user's own tor, not this host's, unless --control names one.

    Changes nothing, and prints nothing secret. The exit status is 0 if everything is ok, 1 if something is not, 2 if
    something could not be checked.
    """
    from torknock.operate.doctor.examine import Target

    if user is not None and side is Side.BRIDGE:
        raise click.UsageError("--user goes with client")
    if user is None and side is Side.CLIENT and os.geteuid() != 0:
        usual = ctx.get_parameter_source("control") is ParameterSource.DEFAULT
        user = _caller() if usual else None
    findings = run(Target(keyring, side, control, control_password(asks), user))
    say(in_json(findings) if as_json else in_text(findings))
    raise click.exceptions.Exit(exit_status(finding.state for finding in findings))


def _caller() -> str | None:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def run(target: Target) -> list[Finding]:
    """What is found at *target*, in the reactor, so once in a process. Raises `KeyboardInterrupt` on Ctrl-C."""
    from torknock.operate.doctor.examine import examine

    reactor = installed()
    findings = in_reactor(reactor, examine(reactor, target, time.time))
    if findings is None:
        raise KeyboardInterrupt
    return findings
