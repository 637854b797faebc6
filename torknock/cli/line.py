"""`torknock line`: issue bridge lines, list them, take them back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from os.path import isdir
from pathlib import Path
from typing import BinaryIO

import click
from click.core import ParameterSource

from torknock.cli.options import address, duration, fingerprint, keyring_option, read_secret, say
from torknock.cli.whereabouts import Address, find_address, find_fingerprint, remember
from torknock.errors import TorknockError
from torknock.keyring import Issued, Keyring
from torknock.line import DEFAULT_N, BridgeLine, write_bridge_line

address_option = click.option(
    "--address", type=address, metavar="IP:PORT", help="The bridge's public address; IPv6 as [2001:db8::7]:443."
)
fingerprint_option = click.option("--fingerprint", type=fingerprint, metavar="HEX", help="The bridge's fingerprint.")


class LineEnded(TorknockError):
    """A line that opens nothing any more."""

    def __init__(self, issued: Issued, now: float) -> None:
        super().__init__(f"the line {issued.name} is {_state(issued, now)}; issue another with torknock line add")
        self.issued = issued


@click.group()
def line() -> None:
    """Issue bridge lines, list them, take them back.

    A bridge line lets one person in, or one group; each has a secret of its own.
    """


@line.command(epilog="Example: torknock line add alice --expires 90d --address 192.0.2.7:443")
@click.argument("name")
@click.option("--expires", type=duration, metavar="TIME", help="How long it opens: 30m, 12h, 90d, 2w.  [for ever]")
@click.option(
    "--n",
    type=click.IntRange(1, 1024),
    default=DEFAULT_N,
    show_default=True,
    help="Connections that it opens in 5 minutes.",
)
@click.option("--sni", metavar="NAME", help="A host name that clients send in TLS.")
@click.option(
    "--scheme",
    type=click.Choice(["token", "knock"]),
    default="token",
    show_default=True,
    help="What the knock is; knock is for hosts and clients of TCP Stealth.",
)
@click.option("--channel", type=click.Choice(["tls", "raw"]), help="What carries it.  [tls; raw with --scheme knock]")
@click.option(
    "--integrity",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="The knock covers the first N octets that the client sends (--scheme knock).",
)
@click.option(
    "--secret-file",
    type=click.File("rb"),
    metavar="FILE",
    help="Take the secret from FILE instead of chance (--scheme knock); a line end at its end does not count.",
)
@address_option
@fingerprint_option
@keyring_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    expires: int | None,
    n: int,
    sni: str | None,
    scheme: str,
    channel: str | None,
    integrity: int | None,
    secret_file: BinaryIO | None,
    address: Address | None,
    fingerprint: str | None,
    keyring: Path,
) -> None:
    """Issue a line called NAME and print it, ready for torrc.

    The bridge's address and fingerprint must be named where neither an earlier call nor tor's own files tell them.
    """
    if scheme == "token" and (integrity is not None or secret_file is not None):
        raise click.UsageError("--integrity and --secret-file are for --scheme knock")
    secret = None if secret_file is None else read_secret(secret_file)
    now = time.time()
    named = ctx.get_parameter_source("keyring") is not ParameterSource.DEFAULT
    with Keyring.open(keyring, create=named or isdir(keyring.parent)) as opened:
        where = find_address(opened, keyring, address)
        who = find_fingerprint(opened, keyring, fingerprint)
        issued = opened.add(
            name,
            expires=None if expires is None else int(now) + expires,
            now=now,
            n=n,
            sni=sni,
            scheme=scheme,
            channel=channel,
            integrity=integrity or 0,
            secret=secret,
        )
        opened.make_known_at(str(where[0]))
        remember(opened, address, fingerprint)
    say(write_bridge_line(BridgeLine(*where, who, issued.line)))


@line.command("list", epilog="Example: torknock line list")
@keyring_option
def list_(keyring: Path) -> None:
    """List the lines and what became of them; nothing secret."""
    now = time.time()
    with Keyring.open(keyring, create=False) as opened:
        lines = opened.lines()
    if not lines:
        click.echo("torknock: there is no line yet; torknock line add NAME makes one", err=True)
        return
    rows = [("NAME", "SCHEME", "CREATED", "EXPIRES (UTC)", "STATE")]
    for issued in lines:
        expires = "never" if issued.expires is None else _minute(issued.expires)
        rows.append((issued.name, issued.line.scheme, _day(issued.created), expires, _state(issued, now)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    say("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows))


@line.command(epilog="Example: torknock line show alice --address [2001:db8::7]:443")
@click.argument("name")
@address_option
@fingerprint_option
@keyring_option
def show(name: str, address: Address | None, fingerprint: str | None, keyring: Path) -> None:
    """Print the line called NAME once more.

    For another address of the bridge, if --address names it.
    """
    now = time.time()
    with Keyring.open(keyring, create=False) as opened:
        issued = opened.get(name)
        if not issued.lives(now):
            raise LineEnded(issued, now)
        where = find_address(opened, keyring, address)
        who = find_fingerprint(opened, keyring, fingerprint)
        opened.make_known_at(str(where[0]))
    say(write_bridge_line(BridgeLine(*where, who, issued.line)))


@line.command(epilog="Example: torknock line revoke alice")
@click.argument("name")
@keyring_option
def revoke(name: str, keyring: Path) -> None:
    """Take the line called NAME back, for good.

    A running bridge hears of it within 2 seconds; connections that the line opened live on.
    """
    with Keyring.open(keyring, create=False) as opened:
        opened.revoke(name, time.time())
    say(f"{name} is revoked")


def _state(issued: Issued, now: float) -> str:
    if issued.revoked is not None:
        return f"revoked {_day(issued.revoked)}"
    return "live" if issued.lives(now) else "expired"


def _day(unix_time: int) -> str:
    return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%d}"


def _minute(unix_time: int) -> str:
    return f"{datetime.fromtimestamp(unix_time, UTC):%Y-%m-%d %H:%M}"
