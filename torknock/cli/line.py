"""`torknock line`: issue bridge lines (`line_printed`), list them, revoke them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from shutil import get_terminal_size

import click

from torknock.cli.line_printed import add, card, show
from torknock.cli.options import keyring_option, say, until
from torknock.cli.waiting import open_keyring
from torknock.operate.line_table import as_json, as_table, minute


def when(text: str) -> int | None:
    """As `until`; None for `never`."""
    return None if text == "never" else until(text)


@click.group(epilog="Example: torknock line add alice --expires 90d --qr")
def line() -> None:
    """Issue bridge lines, list them, take them back.

    A bridge line lets one person in, or one group; each has a secret of its own.
    """


for _verb in (add, show, card):
    line.add_command(_verb)


@line.command("list", epilog="Example: torknock line list --json")
@click.option("--json", "machine", is_flag=True, help="As a JSON array.")
@keyring_option
def list_(machine: bool, keyring: Path) -> None:
    """List the lines and what became of them; nothing secret.

    Connections and the day of the last use are those that a running bridge has written down, once a minute.
    """
    now = time.time()
    with open_keyring(keyring) as opened:
        lines = opened.lines()
    if machine:
        say(as_json(lines, now))
    elif lines:
        say(as_table(lines, now, get_terminal_size().columns if sys.stdout.isatty() else None))
    else:
        click.echo("torknock: there is no line yet; torknock line add NAME makes one", err=True)


@line.command(epilog="Example: torknock line revoke alice --cut")
@click.argument("name")
@click.option("--cut", is_flag=True, help="End the connections that it has opened; may be said later, too.")
@keyring_option
def revoke(name: str, cut: bool, keyring: Path) -> None:
    """Take the line called NAME back, for good.

    Its secret is erased: a line that is revoked cannot be shown again, and no ISN can be traced to it. A running bridge
    hears of it within 2 seconds; connections that the line opened live on, unless --cut ends them.
    """
    now = time.time()
    with open_keyring(keyring) as opened:
        opened.revoke(name, now, cut)
    say(f"{name} is revoked, and its connections are cut" if cut else f"{name} is revoked")


@line.command(epilog="Example: torknock line expire alice 90d")
@click.argument("name")
@click.argument("when", type=when, metavar="TIME|DAY|never")
@keyring_option
def expire(name: str, when: int | None, keyring: Path) -> None:
    """Change how long the line called NAME opens.

    For TIME from now on (30m, 12h, 90d, 2w), until DAY is over (2027-01-31, UTC), or for ever. A line that is revoked
    stays so, and one that has expired does once the running bridge has erased its secret, within 15 minutes.
    Connections live on when their line expires.
    """
    with open_keyring(keyring) as opened:
        opened.set_expiry(name, when)
    say(f"{name} opens for ever" if when is None else f"{name} opens until {minute(when)} UTC")


@line.command(epilog="Example: torknock line note alice 'moved in June'")
@click.argument("name")
@click.argument("text")
@keyring_option
def note(name: str, text: str, keyring: Path) -> None:
    """Note something about the line called NAME.

    TEXT, one line of at most 200 characters, takes the place of what was noted before; '' removes it. Only you see it,
    in torknock line list.
    """
    with open_keyring(keyring) as opened:
        opened.set_note(name, text)
    say(f"the note about {name} is {'written' if text else 'removed'}")
