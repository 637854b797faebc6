"""`torknock setup bridge`: make a hidden bridge of the tor that runs here."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from torknock.cli.options import (
    KEYRING,
    WordChoice,
    control_option,
    control_password,
    encoding,
    password_option,
    say,
    say_code,
)
from torknock.cli.setup_address import parse_public_address, public_address, where_lines_point
from torknock.cli.setup_site import serve_site
from torknock.cli.setup_steps import configure, confirm_changes, group_of, program, yes_option
from torknock.cli.withdrawal import printed_or_withdrawn
from torknock.kernel.places import PROGRAMS
from torknock.operate.addresses import warning
from torknock.operate.sides import Side
from torknock.protocol.door import Door, Posture
from torknock.service.access import EVERYWHERE

if TYPE_CHECKING:
    from torknock.cli.bridge_address import Address
    from torknock.operate.setup.apply import FirstLine
    from torknock.operate.setup.changes import Change
    from torknock.operate.setup.place import Place
    from torknock.operate.setup.this_host import Host
    from torknock.operate.setup.torrc_options import BridgeSettings
    from torknock.tor.inspect import TorFacts


class _Options(NamedTuple):
    """The options of the command line; None where one was not given."""

    address: IPv4Address | IPv6Address | None
    port: int | None
    posture: str | None
    name: str
    site: bool
    site_config: Path | None
    yes: bool


def _address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    return None if text is None else parse_public_address(text)


@click.command(epilog="Example: torknock setup bridge --address 192.0.2.7 --port 443")
@click.option(
    "--address", callback=_address, metavar="IP", help="The bridge's public address.  [this host's own, if public]"
)
@click.option("--port", type=click.IntRange(1, 65535), help="The port to hide.  [443]")
@click.option("--posture", type=WordChoice(Posture), help="What strangers see there.  [as unused ports]")
@click.option("--name", default="first", show_default=True, help="The name of the first line.")
@click.option("--site", is_flag=True, help="Prepare for lines of channel web: your own nginx answers at the port.")
@click.option(
    "--site-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Do --site, and add its lines to the one server block with TLS in this file of nginx's configuration.",
)
@control_option
@password_option
@yes_option
def bridge(
    address: IPv4Address | IPv6Address | None, port: int | None, posture: str | None, name: str, site: bool,
    site_config: Path | None, control: str, asks: bool, yes: bool,
) -> None:  # fmt: skip
    """Make a hidden bridge of the tor that runs here, and print its first bridge line.

    Needs root. To strangers the port looks closed; a client with the line gets in.
    """
    site = site or site_config is not None
    config = None if site_config is None else site_config.absolute()
    asked, password = _Options(address, port, posture, name, site, config, yes), control_password(asks)
    line, place = _set_up(asked, control, password)
    if config is not None:
        serve_site(config, place, line.keyring, yes)
    has_site = _conclude(line.text, asked, control, password)
    if config is not None:
        click.echo(_LINES_FOR_SITE, err=True)
    elif site:
        click.echo(_NEXT_FOR_SITE, err=True)
    elif not has_site and which("nginx", path=PROGRAMS) is not None:
        click.echo(_SITE_OFFER, err=True)


def _set_up(asked: _Options, control: str, password: str | None) -> tuple[FirstLine, Place]:
    """Make the bridge, and print its first line, which is returned with the tor's place. Raises `TorknockError`."""
    from torknock.operate.setup import apply as operate
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.record import Record
    from torknock.operate.setup.this_host import Host
    from torknock.tor.control import tor_at

    named = None
    with ExitStack() as stack:
        stack.enter_context(Record(RECORD).locked())
        if debian_tor.is_stopped(control):
            host = Host.of(None, program())
            changes, settings = _changes(host, debian_tor.configured_facts(), None, asked, None)
            configure(changes, host.place.record, asked.yes, operate.verify)
            asked, named = asked._replace(address=settings.address), settings.line_address
        tor = stack.enter_context(tor_at(control, password))
        host, facts = Host.of(tor, program()), tor.facts()
        changes, settings = _changes(host, facts, tor.address, asked, named)
        if ignored := operate.ignored_lines(facts, settings.door.posture, time.time()):
            _warn_of_ignored(ignored, settings.door.posture)
        if confirm_changes(changes, asked.yes):
            stack.enter_context(operate.applying(changes, tor, host.place.record, Side.BRIDGE))
        elif not operate.transport_runs(tor, Side.BRIDGE):
            operate.start_transport(tor, Side.BRIDGE)
        line = operate.first_line(tor, settings, time.time())
    with printed_or_withdrawn(line.keyring, line.name) if line.made else nullcontext():
        say(line.text)
    return line, host.place


def _changes(
    host: Host, facts: TorFacts, guess: str | None, asked: _Options, named: Address | None
) -> tuple[list[Change], BridgeSettings]:
    """What is to be changed on *host*, and for which settings; *guess* is the address that tor takes for its own.

    *named* is the address and port that lines are to have, if that is decided.
    """
    from torknock.operate.setup.planned_changes import plan, plan_by_hand
    from torknock.operate.setup.site_directory import check_web_server, site_directory
    from torknock.operate.setup.site_include import check_config
    from torknock.operate.setup.torrc_options import (
        BridgeSettings,
        bridge_options,
        configured_site,
        known_options,
        port_and_posture,
    )

    address = asked.address or public_address(facts.option("Address"), guess, asked.yes)
    if named is None and (doubt := warning(address)):
        click.echo(f"torknock: {doubt}", err=True)
    port, posture = port_and_posture(facts, asked.port, asked.posture, _proposed_posture)
    named = named or where_lines_point(facts, address, port, asked.yes)
    if asked.site:
        check_web_server()
    if asked.site_config is not None:
        check_config(asked.site_config)
    site = site_directory(host.place.suffix) if asked.site else configured_site(facts)
    settings = BridgeSettings(address, Door(EVERYWHERE, port, Posture(posture)), asked.name, named, site)
    known = known_options(host.place.snippet)
    if not known and facts.of_torknock("ServerTransportPlugin") is not None:  # written by hand
        return plan_by_hand(facts, host), settings
    options = bridge_options(facts, settings, known, host)
    return plan(Side.BRIDGE, options, host, group_of(host.tor_user)), settings


def _proposed_posture() -> str:
    from torknock.operate.propose import propose_posture

    proposed = propose_posture()
    click.echo(f"posture {proposed.posture.value}: {proposed.why}", err=True)
    return proposed.posture.value


def _warn_of_ignored(names: list[str], posture: Posture) -> None:
    click.echo(
        f"warning: with posture {posture.value} these lines of scheme knock open nothing: {', '.join(names)}; keep "
        "--posture filtered, or give their holders new lines",
        err=True,
    )


def _conclude(line: str, asked: _Options, control: str, password: str | None) -> bool:
    """Show what the doctor finds, and what to do next. A line that opens nothing yet is not drawn.

    Returns whether the bridge has a site. That its web server does not answer is no fault where a site was *asked* for
    without a file of its configuration: what to do next is about just that.
    """
    from torknock.cli.doctor import run
    from torknock.cli.findings import in_text
    from torknock.operate.doctor.examine import Target
    from torknock.operate.finding import State

    findings = run(Target(KEYRING, Side.BRIDGE, control, password))
    wanting = [finding for finding in findings if finding.state is not State.OK]
    if wanting:
        click.echo(in_text(wanting), err=True)
    harmless = _HARMLESS | {"site"} if asked.site and asked.site_config is None else _HARMLESS
    if any(it.state is State.NOT_OK and it.name not in harmless for it in wanting):
        click.echo(_NOT_YET.format(name=asked.name), err=True)
        raise click.exceptions.Exit(1)
    _draw(line)
    click.echo(_NEXT, err=True)
    return any(finding.name == "site" for finding in findings)


_HARMLESS = {"bootstrap", "knock lines", "posture"}
"""Findings that do not keep the new line out: a first bootstrap takes minutes, and the posture may be intended."""

_NOT_YET = """
torknock: the bridge is set up, but clients may not get in until this is fixed; then: torknock doctor bridge
The line's QR code: torknock line show {name} --qr"""

_NEXT = """
The bridge is set up. Next:
  from another host of yours: torknock check --as-stranger - < line.txt    is it hidden, and does the line open it?
  give the line to one person, for one device; torknock line add NAME makes another
  torknock status shows what the bridge does"""


_SITE_OFFER = """
nginx is installed on this host. A stranger who takes over a client's connection can meet your own web site:
  torknock setup bridge --site prepares for it"""

_NEXT_FOR_SITE = """
To have nginx answer at the port, for the server block of your site:
  torknock site > /etc/nginx/snippets/torknock.conf
  add the line include snippets/torknock.conf; to that server block
  nginx -t && systemctl reload nginx
  torknock line add NAME --sni HOST, with the host name of that server block, makes lines of channel web
(torknock setup bridge --site-config FILE, with the file of that server block, does all but the last)"""

_LINES_FOR_SITE = """
nginx answers at the port, too:
  torknock line add NAME --sni HOST, with the host name of its server block, makes lines of channel web"""


def _draw(line: str) -> None:
    from torknock.operate.card import qr_text

    say_code(qr_text(line, encoding()))
