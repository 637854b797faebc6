"""`torknock setup`: hide the bridge of this host, or use a hidden one (`setup_bridge`, `setup_client`); and back."""

from __future__ import annotations

import click

from torknock.cli.options import control_option, control_password, password_option, say
from torknock.cli.setup_bridge import bridge
from torknock.cli.setup_client import client
from torknock.cli.setup_steps import yes_option


@click.group(invoke_without_command=True, epilog="Example: torknock setup bridge --address 192.0.2.7 --port 443")
@click.option("--undo", is_flag=True, help="Undo exactly what setup has changed. A client's tor is stopped.")
@click.option("--direct", is_flag=True, help="With --undo: let a client's tor connect to the Tor network directly.")
@control_option
@password_option
@yes_option
@click.pass_context
def setup(ctx: click.Context, undo: bool, direct: bool, control: str, asks: bool, yes: bool) -> None:
    """Set up a hidden bridge on this host, or a client of one.

    Shows what it would change, asks, makes the changes, and waits until tor uses them. A second run changes nothing.

    --undo stops the tor of a client, and asks first: without the bridge, tor would connect to the Tor network directly.
    With --direct it keeps running and does so.
    """
    if ctx.invoked_subcommand is not None:
        if undo:
            raise click.UsageError("--undo undoes everything; it goes with no other command")
        return
    if direct and not undo:
        raise click.UsageError("--direct goes with --undo")
    if not undo:
        raise click.UsageError("say bridge, client or --undo")
    _undo(control, asks, direct, yes)


setup.add_command(bridge)
setup.add_command(client)


def _undo(control: str, asks: bool, direct: bool, yes: bool) -> None:
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup.bridge_only import is_client, undo_and_connect, undo_and_stop
    from torknock.operate.setup.place import RECORD, place_at
    from torknock.operate.setup.record import Record

    password = control_password(asks)
    with Record(RECORD).locked():
        place = place_at(control, password)
        if place.record.other_records() and not place.record.changes():
            raise click.UsageError("this tor is not set up, but another tor of this host is: name it with --control")
        client = is_client(place.record) or (direct and not place.name and debian_tor.HOLD.exists())
        if client:
            click.echo(_DIRECT if direct else _STOPPED, err=True)
            if not (yes or click.confirm("Remove the bridge?", err=True)):
                raise click.Abort
        undo = undo_and_stop if client and not direct else undo_and_connect
        for message in undo(place, control, password):
            click.echo(f"torknock: {message}", err=True)
    say("what setup has changed is undone")


_DIRECT = (
    "Without the bridge tor connects to the Tor network directly: an observer of this network sees that Tor is "
    "used here."
)
_STOPPED = f"{_DIRECT}\nSo tor stays stopped. To let it connect directly: torknock setup --undo --direct"
