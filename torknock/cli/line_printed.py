"""The verbs of `torknock line` that hand out a line: `add` makes one; `show` and `card` print one again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

import click
from click.core import ParameterSource

from torknock.cli.bridge_address import Address, find_address, find_fingerprint, store
from torknock.cli.open_keyring import open_keyring
from torknock.cli.options import (
    WordChoice,
    address,
    encoding,
    fingerprint,
    keyring_option,
    read_secret,
    say,
    say_code,
    until,
)
from torknock.cli.withdrawal import printed_or_withdrawn
from torknock.errors import TorknockError
from torknock.keyring.issued import Issued
from torknock.keyring.lines import POSTURE, Keyring
from torknock.keyring.site_settings import SITE
from torknock.operate.card import qr_text, write_card, write_png, write_svg
from torknock.operate.line_table import state
from torknock.protocol.bridge_line import DEFAULT_N, BridgeLine, Channel, Scheme, write_bridge_line
from torknock.protocol.door import Posture

address_option = click.option(
    "--address", type=address, metavar="IP:PORT", help="The bridge's public address; IPv6 as [2001:db8::7]:443."
)
fingerprint_option = click.option("--fingerprint", type=fingerprint, metavar="HEX", help="The bridge's fingerprint.")

Command = Callable[..., None]


def new_file(text: str) -> Path:
    """The path of a new file. Raises `click.BadParameter` if it exists or cannot be made, before a line is issued."""
    path = Path(text)
    if os.path.lexists(path):
        raise click.BadParameter(f"{click.format_filename(path)} exists already; name another file")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise click.BadParameter(f"{click.format_filename(path)} cannot be written; name another file")
    return path


def drawing_options(command: Command) -> Command:
    """`--qr`, `--png` and `--svg`: the line as a QR code."""
    svg = click.option("--svg", type=new_file, metavar="FILE", help="Write the QR code to FILE, as SVG.")
    png = click.option("--png", type=new_file, metavar="FILE", help="Write the QR code to FILE, as PNG.")
    return click.option("--qr", is_flag=True, help="Print the line's QR code below it.")(png(svg(command)))


class LineEnded(TorknockError):
    """A line that is revoked or expired."""

    def __init__(self, issued: Issued, now: float) -> None:
        ended = f"the line {issued.name} is {state(issued, now)}"
        remedy = f"renew it with torknock line expire {issued.name} TIME, or issue another"
        if issued.erased:
            ended, remedy = f"{ended} and its secret is erased", "issue another"
        super().__init__(ended, f"{remedy} with torknock line add")


class KnockNeedsSilence(TorknockError):
    """A line of scheme `knock` for a port that answers strangers; *posture* is the port's, None if it is not known."""

    def __init__(self, posture: str | None) -> None:
        why = f"this port has posture {posture}, where judging a SYN delays the answer measurably"
        if posture is None:
            why = "the posture of this port is not known before the bridge has run once"
        super().__init__(
            f"a line of scheme knock needs posture filtered, and {why}",
            "use posture=filtered in ServerTransportOptions "
            "and start the bridge, or as root: torknock setup bridge --posture filtered",
        )


@click.command(epilog="Example: torknock line add alice --expires 90d --address 192.0.2.7:443 --note 'by hand, in May'")
@click.argument("name")
@click.option(
    "--expires",
    type=until,
    metavar="TIME|DAY",
    help="When it expires: 12h, 90d, 2w, or 2027-01-31.  [never]",
)
@click.option(
    "--n",
    type=click.IntRange(1, 1024),
    default=DEFAULT_N,
    show_default=True,
    help="How many connections it opens in 5 minutes.",
)
@click.option("--note", default="", metavar="TEXT", help="A note about it, which only torknock line list shows.")
@click.option("--sni", metavar="NAME", help="A host name that clients send in TLS; that of the site, if it has one.")
@click.option(
    "--scheme",
    type=WordChoice(Scheme),
    default=str(Scheme.TOKEN),
    show_default=True,
    help="How clients knock; knock is for clients of TCP Stealth, and needs posture filtered.",
)
@click.option(
    "--channel",
    type=WordChoice(Channel),
    help="The channel behind the knock.  [web if the bridge has a site, else tls; raw with --scheme knock]",
)
@click.option("--shape", is_flag=True, help="Shape the stream, so that it looks like a web site's (--channel tls).")
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
    help="Read the secret from FILE instead of making one (--scheme knock). A newline at its end is ignored.",
)
@drawing_options
@address_option
@fingerprint_option
@keyring_option
@click.pass_context
def add(
    ctx: click.Context, name: str, expires: int | None, n: int, note: str, sni: str | None, scheme: Scheme,
    channel: Channel | None, shape: bool, integrity: int | None, secret_file: BinaryIO | None, qr: bool,
    png: Path | None, svg: Path | None, address: Address | None, fingerprint: str | None, keyring: Path,
) -> None:  # fmt: skip
    """Issue a line called NAME and print it, ready for torrc.

    If the line cannot be printed, as on a full disk, it is withdrawn: it opens nothing, and NAME is free again.

    Give the bridge's address and fingerprint if neither an earlier call nor tor's own files have them.
    """
    if scheme is Scheme.TOKEN and (integrity is not None or secret_file is not None):
        raise click.UsageError("--integrity and --secret-file are for --scheme knock")
    secret = None if secret_file is None else read_secret(secret_file)
    now = time.time()
    named = ctx.get_parameter_source("keyring") is not ParameterSource.DEFAULT
    with open_keyring(keyring, create=named or keyring.parent.is_dir()) as opened:
        if scheme is Scheme.KNOCK:
            _check_posture(opened)
        where = find_address(opened, keyring, address)
        who = find_fingerprint(opened, keyring, fingerprint)
        channel, pin = _channel_and_pin(opened, scheme, channel, sni, shape)
        issued = opened.add(
            name, expires=expires, now=now, n=n, sni=sni, scheme=scheme, channel=channel, integrity=integrity or 0,
            shape=shape, secret=secret, note=note, site_pin=pin,
        )  # fmt: skip
        with printed_or_withdrawn(keyring, name):
            opened.make_known_at(name, str(where[0]))
            store(opened, address, fingerprint)
    text = write_bridge_line(BridgeLine(*where, who, issued.line))
    with printed_or_withdrawn(keyring, name):
        say(text)
    _draw(text, qr, png, svg)


@click.command(epilog="Example: torknock line show alice --qr")
@click.argument("name")
@drawing_options
@address_option
@fingerprint_option
@keyring_option
def show(
    name: str,
    qr: bool,
    png: Path | None,
    svg: Path | None,
    address: Address | None,
    fingerprint: str | None,
    keyring: Path,
) -> None:
    """Print the line called NAME again.

    With --address, for another address of the bridge.
    """
    _, text = _look_up(name, address, fingerprint, keyring)
    say(text)
    _draw(text, qr, png, svg)


@click.command(epilog="Example: torknock line card alice")
@click.argument("name")
@click.option("--output", type=new_file, metavar="FILE", help="Where to write the page.  [card.html]")
@address_option
@fingerprint_option
@keyring_option
def card(name: str, output: Path | None, address: Address | None, fingerprint: str | None, keyring: Path) -> None:
    """Write a page to print, with the line called NAME.

    It is one HTML file for the person who gets the line: its QR code, the line, and what to do with it. It contains
    neither NAME nor the note. The path of the file is printed.
    """
    issued, text = _look_up(name, address, fingerprint, keyring)
    path = output or _unused_name()
    write_card(path, text, issued.expires)
    say(click.format_filename(path))


def _look_up(name: str, address: Address | None, fingerprint: str | None, keyring: Path) -> tuple[Issued, str]:
    """The line *name*, and what it is in torrc. Raises `LineEnded` or `KnockNeedsSilence` if it opens nothing."""
    now = time.time()
    with open_keyring(keyring) as opened:
        issued = opened.get(name)
        if not issued.is_live(now):
            raise LineEnded(issued, now)
        if issued.line.scheme is Scheme.KNOCK:
            _check_posture(opened)
        where = find_address(opened, keyring, address)
        who = find_fingerprint(opened, keyring, fingerprint)
        opened.make_known_at(name, str(where[0]))
    return issued, write_bridge_line(BridgeLine(*where, who, issued.line))


def _check_posture(keyring: Keyring) -> None:
    """Raise `KnockNeedsSilence` unless the bridge of *keyring* can judge knocks unseen."""
    posture = Posture.read(keyring.setting(POSTURE))
    if posture is None or not posture.hides_judging:
        raise KnockNeedsSilence(None if posture is None else posture.value)


def _channel_and_pin(
    keyring: Keyring, scheme: Scheme, channel: Channel | None, sni: str | None, shape: bool
) -> tuple[Channel | None, bytes | None]:
    """The channel of a new line, and with channel `web` the site's pin if one is needed. A warning goes to stderr."""
    site = keyring.setting(SITE)
    if channel is None and scheme is Scheme.TOKEN and site:
        channel = Channel.WEB
    if shape and channel not in (None, Channel.TLS):
        raise click.UsageError("--shape is for --channel tls; channel web always shapes its streams")
    if channel is not Channel.WEB or scheme is not Scheme.TOKEN:
        return channel, None
    from torknock.operate.site_pin import pin_for  # it loads OpenSSL

    pin, warning = pin_for(site, sni)
    if warning:
        click.echo(f"torknock: {warning}", err=True)
    return channel, pin


def _unused_name() -> Path:
    """The name of a page that does not exist yet. Browsers print it, so it contains no name of a person."""
    names = chain([Path("card.html")], (Path(f"card-{number}.html") for number in count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _draw(text: str, qr: bool, png: Path | None, svg: Path | None) -> None:
    if png is not None:
        write_png(png, text)
    if svg is not None:
        write_svg(svg, text)
    if qr:
        say_code(qr_text(text, encoding()))
