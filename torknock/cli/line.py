"""`torknock line`: issue bridge lines (`line_printed`), list them, revoke them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from shutil import get_terminal_size

import click

from torknock.cli.line_printed import add, card, show
from torknock.cli.open_keyring import open_keyring
from torknock.cli.options import keyring_option, say, until
from torknock.keyring.site_settings import SITE
from torknock.operate.line_table import REISSUE, as_json, as_table, minute
from torknock.protocol.bridge_line import Channel


def when(text: str) -> int | None:
    """As `until`; None for `never`."""
    return None if text == "never" else until(text)


@click.group(epilog="Example: torknock line add alice --expires 90d --qr")
def line() -> None:
    """Issue bridge lines, list them, revoke them.

    A bridge line lets one person or one group in. Each line has its own secret.
    """


for _verb in (add, show, card):
    line.add_command(_verb)


@line.command("list", epilog="Example: torknock line list --json")
@click.option("--json", "machine", is_flag=True, help="Print a JSON array.")
@keyring_option
def list_(machine: bool, keyring: Path) -> None:
    """List the lines and their state; nothing secret.

    The connections and the day of the last use come from the running bridge, which records them once a minute.
    """
    now = time.time()
    with open_keyring(keyring) as opened:
        lines, site = opened.lines(), opened.setting(SITE)
    if machine:
        say(as_json(lines, now))
    elif lines:
        say(as_table(lines, now, get_terminal_size().columns if sys.stdout.isatty() else None))
        if site and (names := [each.name for each in lines if each.is_live(now) and each.line.channel is Channel.TLS]):
            why = f"these lines are of channel tls and show no site: {', '.join(names)}"
            click.echo(f"torknock: {why}; {REISSUE}", err=True)
    else:
        click.echo("torknock: no line yet; issue one with torknock line add NAME", err=True)


@line.command(epilog="Example: torknock line revoke alice --cut")
@click.argument("name")
@click.option("--cut", is_flag=True, help="End its connections. Also works on a revoked line.")
@keyring_option
def revoke(name: str, cut: bool, keyring: Path) -> None:
    """Revoke the line called NAME permanently.

    Its secret is erased: a revoked line cannot be shown again, and no ISN can be traced to it. A running bridge applies
    this within 2 seconds. Connections that the line opened stay open, unless --cut ends them.
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
    """Change when the line called NAME expires.

    TIME counts from now (30m, 12h, 90d, 2w); DAY is a date, to its end in UTC (2027-01-31). A revoked line stays
    revoked. An expired line stays expired once the running bridge has erased its secret, within 15 minutes. Connections
    stay open when their line expires.
    """
    with open_keyring(keyring) as opened:
        opened.set_expiry(name, when)
    say(f"{name} never expires" if when is None else f"{name} expires at {minute(when)} UTC")


@line.command(epilog="Example: torknock line note alice 'moved in June'")
@click.argument("name")
@click.argument("text")
@keyring_option
def note(name: str, text: str, keyring: Path) -> None:
    """Write a note about the line called NAME.

    TEXT, one line of at most 200 characters, replaces the earlier note; '' removes it. Only torknock line list shows
    it.
    """
    with open_keyring(keyring) as opened:
        opened.set_note(name, text)
    say(f"the note about {name} is {'written' if text else 'removed'}")
