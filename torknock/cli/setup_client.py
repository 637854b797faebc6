"""`torknock setup client`: let the tor of this host, or a user's own tor, use a hidden bridge."""

from __future__ import annotations

import click

from torknock.cli.options import control_option, control_password, password_option, read_bridge_line, say
from torknock.cli.setup_steps import configure, confirm_changes, group_of, program, yes_option
from torknock.operate.sides import Side
from torknock.protocol.bridge_line import BridgeLine


@click.command(epilog="Example: torknock setup client - < line.txt")
@click.argument("bridge_line", nargs=-1)
@click.option(
    "--user", metavar="NAME", help="Let NAME's own tor knock, such as Tor Browser's; other tors stay as they are."
)
@control_option
@password_option
@yes_option
def client(bridge_line: tuple[str, ...], user: str | None, control: str, asks: bool, yes: bool) -> None:
    """Let the tor of this host use the hidden bridge of BRIDGE_LINE, or let NAME's own tor knock.

    tor closes its connections, then connects to the bridge and to nothing else. The exit status is 0 once tor has built
    a circuit through this bridge. If the bridge does not answer it is 1, and the bridge stays configured.

    Give the line in quotation marks, or - to read it from stdin, which keeps it out of the list of processes and of the
    shell's history. Needs root.
    """
    if user is not None:
        if bridge_line:
            raise click.UsageError("with --user, the bridge line goes into the torrc of NAME's own tor")
        _let_knock(user, yes)
        return
    if not bridge_line:
        raise click.UsageError("give the bridge line, or - to read it from stdin")
    parsed, piped = read_bridge_line(bridge_line), bridge_line == ("-",)
    _use(parsed, control, control_password(asks), yes or piped)
    say("tor uses the bridge")


def _use(bridge_line: BridgeLine, control: str, password: str | None, yes: bool) -> None:
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup.bridge_only import use_bridge, verify_bridged
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.planned_changes import plan
    from torknock.operate.setup.record import Record
    from torknock.operate.setup.this_host import Host
    from torknock.operate.setup.torrc_options import client_options, known_options
    from torknock.tor.control import tor_at

    with Record(RECORD).locked():
        if debian_tor.is_stopped(control):
            host = Host.of(None, program())
            known = known_options(host.place.snippet)
            options = client_options(debian_tor.configured_facts(), bridge_line, known, host)
            changes = plan(Side.CLIENT, options, host, group_of(host.tor_user))
            configure(changes, host.place.record, yes, verify_bridged)
        with tor_at(control, password) as tor:
            host = Host.of(tor, program())
            known = known_options(host.place.snippet)
            options = client_options(tor.facts(), bridge_line, known, host)
            changes = plan(Side.CLIENT, options, host, group_of(host.tor_user))
            confirm_changes(changes, yes)
            use_bridge(changes, tor, host.place.record, bridge_line)


def _let_knock(user: str, yes: bool) -> None:
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.planned_changes import plan_for_user
    from torknock.operate.setup.record import Record
    from torknock.operate.setup.this_host import Host

    record = Record(RECORD)
    with record.locked():
        host = Host.of(None, program(), user)
        changes = plan_for_user(user, host)
        if confirm_changes(changes, yes, reloads=False):
            with record.making(changes):
                pass
    click.echo(f"torknock: {user} must log in again, and add this line and the bridge line to tor's torrc:", err=True)
    say(f"+ClientTransportPlugin torknock exec {host.program} client")
