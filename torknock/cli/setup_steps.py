"""What `setup bridge` and `setup client` share: show the changes, ask, and configure a tor that does not run."""

from __future__ import annotations

import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torknock.operate.setup.changes import Change
    from torknock.operate.setup.record import Record

yes_option = click.option("--yes", is_flag=True, help="Change without asking.")


def confirm_changes(changes: list[Change], yes: bool, reloads: bool = True) -> bool:
    """Show *changes* and ask whether to make them, unless *yes*; False if there are none. Raises `click.Abort`.

    *reloads* says that tor will be reloaded, too.
    """
    if not changes:
        click.echo("nothing is to be changed", err=True)
        return False
    for change in changes:
        click.echo(change.describe(), err=True)
    if reloads:
        click.echo("reload tor", err=True)
    if not (yes or click.confirm("Change this?", err=True)):
        raise click.Abort
    return True


def configure(changes: list[Change], record: Record, yes: bool, verify: Callable[[Path, Path | None], None]) -> None:
    """Make *changes* for Debian's tor, which does not run, check them with *verify*, and start tor.

    If tor does not start, the changes are undone. Raises `TorknockError`.
    """
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup.changes import CannotSetUp
    from torknock.operate.setup.place import TORRC

    confirmed = confirm_changes(changes, yes, reloads=False)
    with record.making(changes if confirmed else []):
        verify(TORRC, debian_tor.DEFAULTS)
        started = debian_tor.start()
    if not started:
        raise CannotSetUp("tor is configured, but does not run", debian_tor.START_BY_HAND)


def program() -> Path:
    """The path of this command, as tor and systemd are to start it."""
    called = Path(sys.argv[0])
    return called.absolute() if called.name == "torknock" else Path(sys.executable).with_name("torknock")


def group_of(user: str) -> int:
    """The number of *user*'s primary group; 0 if there is no such user."""
    try:
        return pwd.getpwnam(user).pw_gid
    except KeyError:
        return 0
