"""The public address that `setup bridge` gives the bridge, and the one that its lines have."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import click

from torknock.cli.options import reachable
from torknock.kernel.places import keyring_within
from torknock.operate.addresses import is_broadcast

if TYPE_CHECKING:
    from torknock.cli.bridge_address import Address
    from torknock.tor.inspect import TorFacts


def parse_public_address(text: str) -> IPv4Address | IPv6Address:
    """The address that *text* is. Raises `click.BadParameter` unless clients can connect to it."""
    try:
        address = ip_address(text)
    except ValueError:
        raise click.BadParameter("give an IP address, such as 192.0.2.7") from None
    reachable(address)
    if is_broadcast(address):
        raise click.BadParameter(f"{address} is the broadcast address of a network of this host")
    return address


def public_address(torrc: str | None, guess: str | None, yes: bool) -> IPv4Address | IPv6Address:
    """The address in *torrc*, else the one that is proposed, which the operator may correct unless *yes*.

    *guess* is the address that tor takes for its own.
    """
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
        raise click.UsageError("no interface of this host has a public address, and tor knows none; give --address")
    return proposed.address


def _asked_address(default: IPv4Address | IPv6Address | None) -> IPv4Address | IPv6Address:
    shown = None if default is None else str(default)
    answer: Any = click.prompt(
        "The public address of this host", default=shown, value_proc=parse_public_address, err=True
    )
    return parse_public_address(str(answer))


def where_lines_point(facts: TorFacts, address: IPv4Address | IPv6Address, port: int, yes: bool) -> Address:
    """The address and port that bridge lines have. The operator is asked before lines in use become invalid."""
    from torknock.operate.line_table import handed_out
    from torknock.operate.setup.torrc_options import configured_port
    from torknock.protocol.bridge_line import write_address

    out = None
    if facts.data_directory is not None:
        out = handed_out(keyring_within(facts.data_directory), time.time())
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
