"""`torknock setup`: hide the bridge of this host, or use a hidden one."""

from __future__ import annotations

import pwd
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torknock.cli.options import (
    KEYRING,
    control_option,
    control_password,
    encoding,
    password_option,
    reachable,
    read_bridge_line,
    say,
    say_code,
)
from torknock.cli.withdrawal import printed_or_withdrawn
from torknock.operate.addresses import is_broadcast, warning

if TYPE_CHECKING:
    from torknock.cli.whereabouts import Address
    from torknock.operate.setup.changes import Change
    from torknock.operate.setup.plan import BridgeWishes, Host
    from torknock.operate.setup.record import Record
    from torknock.tor.inspect import TorFacts


def _address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
    return None if text is None else _parsed_address(text)


def _parsed_address(text: str) -> IPv4Address | IPv6Address:
    """The address that *text* is. Raises `click.BadParameter` unless clients can connect to it."""
    try:
        address = ip_address(text)
    except ValueError:
        raise click.BadParameter("an IP address is wanted, such as 192.0.2.7") from None
    reachable(address)
    if is_broadcast(address):
        raise click.BadParameter(f"{address} is the broadcast address of a network of this host")
    return address


yes_option = click.option("--yes", is_flag=True, help="Change without asking.")


class _Setup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params["undo"] and ctx._protected_args:
            raise click.UsageError("--undo takes everything back, and goes with nothing else")
        return super().invoke(ctx)


@click.group(
    cls=_Setup, invoke_without_command=True, epilog="Example: torknock setup bridge --address 192.0.2.7 --port 443"
)
@click.option("--undo", is_flag=True, help="Take back exactly what setup has changed; a client's tor is stopped.")
@click.option("--direct", is_flag=True, help="With --undo: let a client's tor connect to the Tor network directly.")
@control_option
@password_option
@yes_option
@click.pass_context
def setup(ctx: click.Context, undo: bool, direct: bool, control: str, asks: bool, yes: bool) -> None:
    """Hide the bridge of this host, or use a hidden one.

    Shows what it would change, asks, changes it, and waits until tor has taken it up. A second time it changes nothing.

    --undo asks first where tor is a client: without the bridge it would connect to the Tor network directly. So it is
    stopped, unless --direct says otherwise.
    """
    if ctx.invoked_subcommand is not None:
        return
    if direct and not undo:
        raise click.UsageError("--direct goes with --undo")
    if not undo:
        raise click.UsageError("say bridge, client or --undo")
    _undo(control, asks, direct, yes)


@setup.command(epilog="Example: torknock setup bridge --address 192.0.2.7 --port 443")
@click.option(
    "--address", callback=_address, metavar="IP", help="The bridge's public address.  [this host's own, if public]"
)
@click.option("--port", type=click.IntRange(1, 65535), help="The port to hide.  [443]")
@click.option(
    "--posture", type=click.Choice(["closed", "filtered", "decoy"]), help="What strangers see there.  [as unused ports]"
)
@click.option("--name", default="first", show_default=True, help="The first line's.")
@control_option
@password_option
@yes_option
def bridge(
    address: IPv4Address | IPv6Address | None, port: int | None, posture: str | None, name: str, control: str,
    asks: bool, yes: bool,
) -> None:  # fmt: skip
    """Make a hidden bridge of the tor that runs here, and print its first bridge line.

    Needs root. Strangers find the port closed; who has the line gets in.
    """
    from torknock.operate.setup import apply as operate
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup import plan as planning
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.record import Record
    from torknock.tor.control import tor_at

    password, named = control_password(asks), None
    with ExitStack() as stack:
        stack.enter_context(Record(RECORD).alone())
        if debian_tor.is_at_rest(control):
            host, facts = planning.Host.of(None, _program()), debian_tor.resting_facts()
            changes, wishes = _bridge_changes(host, facts, None, address, port, posture, name, named, yes)
            _configure(changes, host.place.record, yes, operate.verify)
            address, named = wishes.address, wishes.named
        tor = stack.enter_context(tor_at(control, password))
        host = planning.Host.of(tor, _program())
        facts = tor.facts()
        changes, wishes = _bridge_changes(host, facts, tor.address, address, port, posture, name, named, yes)
        if ignored := operate.ignored_lines(facts, wishes.posture, time.time()):
            _warn_of_ignored(ignored, wishes.posture)
        if _agreed(changes, yes):
            stack.enter_context(operate.applying(changes, tor, host.place.record, "bridge"))
        elif not operate.transport_runs(tor, "bridge"):
            operate.start_transport(tor, "bridge")
        line = operate.first_line(tor, wishes, time.time())
    with printed_or_withdrawn(line.keyring, line.name) if line.made else nullcontext():
        say(line.text)
    _conclude(line.text, name, control, password)


@setup.command(epilog="Example: torknock setup client - < line.txt")
@click.argument("bridge_line", nargs=-1)
@click.option("--user", metavar="NAME", help="Let NAME's own tor knock, such as Tor Browser's; no other is changed.")
@control_option
@password_option
@yes_option
def client(bridge_line: tuple[str, ...], user: str | None, control: str, asks: bool, yes: bool) -> None:
    """Let the tor of this host use the hidden bridge of BRIDGE_LINE, or let NAME's own tor knock.

    tor's connections are closed, and then it connects to the bridge and to nothing else. The exit status is 0 once tor
    has built a circuit through this bridge. If the bridge does not answer it is 1, and the bridge stays configured.

    Give the line in quotation marks, or - to have it read from stdin, which keeps it out of the list of processes and
    of the shell's history. Needs root.
    """
    if user is not None:
        if bridge_line:
            raise click.UsageError("with --user the bridge line goes to NAME's own tor")
        _let_knock(user, yes)
        return
    if not bridge_line:
        raise click.UsageError("give the bridge line, or - to have it read from stdin")
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup import plan as planning
    from torknock.operate.setup.bridge_only import use_bridge, verify_bridged
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.record import Record
    from torknock.tor.control import tor_at

    parsed, stdin = read_bridge_line(bridge_line), bridge_line == ("-",)
    password = control_password(asks)
    with Record(RECORD).alone():
        if debian_tor.is_at_rest(control):
            host = planning.Host.of(None, _program())
            known = planning.known_options(host.place.snippet)
            options = planning.client_options(debian_tor.resting_facts(), parsed, known, host)
            changes = planning.plan("client", options, host, _group(host.tor_user))
            _configure(changes, host.place.record, yes or stdin, verify_bridged)
        with tor_at(control, password) as tor:
            host = planning.Host.of(tor, _program())
            known = planning.known_options(host.place.snippet)
            options = planning.client_options(tor.facts(), parsed, known, host)
            changes = planning.plan("client", options, host, _group(host.tor_user))
            _agreed(changes, yes or stdin)
            use_bridge(changes, tor, host.place.record, parsed)
    say("tor uses the bridge")


def _conclude(line: str, name: str, control: str, password: str | None) -> None:
    """Say what the doctor finds, and what comes next. A line that opens nothing yet is not drawn."""
    from torknock.cli.doctor import as_text, run
    from torknock.operate.doctor.examine import Patient
    from torknock.operate.finding import State

    findings = run(Patient(KEYRING, "bridge", control, password))
    wanting = [finding for finding in findings if finding.state is not State.OK]
    if wanting:
        click.echo(as_text(wanting), err=True)
    if any(it.state is State.NOT_OK and it.name not in _LETS_CLIENTS_IN for it in wanting):
        click.echo(_NOT_YET.format(name=name), err=True)
        raise click.exceptions.Exit(1)
    _draw(line)
    click.echo(_NEXT, err=True)


_LETS_CLIENTS_IN = {"bootstrap", "knock lines", "posture"}
"""Findings that do not keep the new line out: a first bootstrap takes minutes, a posture may have been wished for."""

_NOT_YET = """
torknock: the bridge is set up, and clients may not get in before that is mended; torknock doctor bridge looks again.
The line's QR code: torknock line show {name} --qr"""

_NEXT = """
The bridge is set up. Next:
  from another host of yours: torknock check --as-stranger - < line.txt    is it hidden, and does the line open it?
  give the line to one person, for one device; torknock line add NAME makes another
  torknock status shows what the bridge does"""


def _bridge_changes(
    host: Host, facts: TorFacts, told: str | None, address: IPv4Address | IPv6Address | None, port: int | None,
    posture: str | None, name: str, named: Address | None, yes: bool,
) -> tuple[list[Change], BridgeWishes]:  # fmt: skip
    """What a bridge wants changed, and for which wishes; *told* is the address that tor takes for its own.

    *named* is where lines say that the bridge is, if that is decided.
    """
    from torknock.operate.setup import plan as planning

    found = address or _found_address(facts.option("Address"), told, yes)
    if named is None and (doubt := warning(found)):
        click.echo(f"torknock: {doubt}", err=True)
    ways = planning.port_and_posture(facts, port, posture, _found_posture)
    wishes = planning.BridgeWishes(found, *ways, name, named or _named(facts, found, ways[0], yes))
    known = planning.known_options(host.place.snippet)
    if not known and facts.of_torknock("ServerTransportPlugin") is not None:  # written by hand
        return planning.plan_by_hand(facts, host), wishes
    options = planning.bridge_options(facts, wishes, known, host)
    return planning.plan("bridge", options, host, _group(host.tor_user)), wishes


def _configure(changes: list[Change], record: Record, yes: bool, verify: Callable[[Path, Path | None], None]) -> None:
    """Have a tor that does not run configured as *verify* demands, and started.

    One that does not start is left as it was.
    """
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup.place import TORRC
    from torknock.operate.setup.plan import CannotSetUp

    agreed = _agreed(changes, yes, reloads=False)
    with record.making(changes if agreed else []):
        verify(TORRC, debian_tor.DEFAULTS)
        started = debian_tor.start()
    if not started:
        raise CannotSetUp(debian_tor.START_BY_HAND)


def _let_knock(user: str, yes: bool) -> None:
    from torknock.operate.setup import plan as planning
    from torknock.operate.setup.place import RECORD
    from torknock.operate.setup.record import Record

    host = planning.Host.of(None, _program(), user)
    record = Record(RECORD)
    with record.alone():
        changes = planning.plan_for_user(user, host)
        if _agreed(changes, yes, reloads=False):
            with record.making(changes):
                pass
    click.echo(f"torknock: {user} must log in again, and give tor's torrc this line, and the bridge line:", err=True)
    say(f"+ClientTransportPlugin torknock exec {host.program} client")


def _undo(control: str, asks: bool, direct: bool, yes: bool) -> None:
    from torknock.operate.setup import debian_tor
    from torknock.operate.setup.bridge_only import is_client, undo_and_connect, undo_and_stop
    from torknock.operate.setup.place import RECORD, place_at
    from torknock.operate.setup.record import Record

    password = control_password(asks)
    with Record(RECORD).alone():
        place = place_at(control, password)
        if place.record.others() and not place.record.changes():
            raise click.UsageError("this tor is not set up, and another of this host is: name it with --control")
        client = is_client(place.record) or (direct and not place.name and debian_tor.HOLD.exists())
        if client:
            click.echo(_DIRECT if direct else _STOPPED, err=True)
            if not (yes or click.confirm("Take the bridge out?", err=True)):
                raise click.Abort
        undo = undo_and_stop if client and not direct else undo_and_connect
        for told in undo(place, control, password):
            click.echo(f"torknock: {told}", err=True)
    say("what setup has changed is taken back")


_DIRECT = (
    "Without the bridge tor connects to the Tor network directly: an observer of this network sees that Tor is "
    "used here."
)
_STOPPED = f"{_DIRECT}\nSo tor is stopped, and stays so. To let it connect directly: torknock setup --undo --direct"


def _found_address(torrc: str | None, guess: str | None, yes: bool) -> IPv4Address | IPv6Address:
    """The address in *torrc*, else the one that is proposed, which may be overridden unless *yes*."""
    from torknock.operate.propose import parsed, propose_address

    if (there := parsed(torrc)) is not None:
        return there
    proposed = propose_address(guess)
    if proposed is not None:
        click.echo(f"address {proposed.address}: {proposed.why}", err=True)
    if not yes:
        default = parsed(guess) if proposed is None else proposed.address
        return _asked_address(default)
    if proposed is None:
        raise click.UsageError(
            "neither an interface of this host nor tor tells its public address; name it with --address"
        )
    return proposed.address


def _asked_address(default: IPv4Address | IPv6Address | None) -> IPv4Address | IPv6Address:
    shown = None if default is None else str(default)
    answer: Any = click.prompt("The public address of this host", default=shown, value_proc=_parsed_address, err=True)
    return _parsed_address(str(answer))


def _found_posture() -> str:
    from torknock.operate.propose import propose_posture

    proposed = propose_posture()
    click.echo(f"posture {proposed.posture.value}: {proposed.why}", err=True)
    return proposed.posture.value


def _named(facts: TorFacts, address: IPv4Address | IPv6Address, port: int, yes: bool) -> Address:
    """Where lines are to say that the bridge is. A person is asked before those that were handed out go stale."""
    from torknock.operate.line_table import handed_out
    from torknock.operate.setup.plan import configured_port
    from torknock.protocol.bridge_line import write_address

    out = None
    if facts.data_directory is not None:
        out = handed_out(facts.data_directory / "pt_state" / "torknock", time.time())
    if out is None:
        return address, port
    if out.address == address and configured_port(facts) in (port, None):  # a port that is forwarded stays
        return address, out.port
    before, after = write_address(out.address, out.port), write_address(address, port)
    if out.live and before != after:
        lines = f"{out.live} live {'line names' if out.live == 1 else 'lines name'} {before}"
        remedy = "give each client the line again: torknock line show NAME"
        click.echo(f"torknock: {lines}, and opens nothing once the bridge is at {after}; {remedy}", err=True)
        if not (yes or click.confirm("Move the bridge?", err=True)):
            raise click.Abort
    return address, port


def _agreed(changes: list[Change], yes: bool, reloads: bool = True) -> bool:
    if not changes:
        click.echo("nothing is to be changed", err=True)
        return False
    for change in changes:
        click.echo(change.told(), err=True)
    if reloads:
        click.echo("reload tor", err=True)
    if not (yes or click.confirm("Change this?", err=True)):
        raise click.Abort
    return True


def _program() -> Path:
    """The command that this is, as tor and systemd are to start it."""
    called = Path(sys.argv[0])
    return called.absolute() if called.name == "torknock" else Path(sys.executable).with_name("torknock")


def _group(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_gid
    except KeyError:
        return 0


def _warn_of_ignored(names: list[str], posture: str) -> None:
    click.echo(
        f"warning: with posture {posture} these lines of scheme knock open nothing: {', '.join(names)}; keep "
        "--posture filtered, or give their holders new lines",
        err=True,
    )


def _draw(line: str) -> None:
    from torknock.operate.card import qr_text

    say_code(qr_text(line, encoding()))
