"""`torknock isn`: the ISNs that open a bridge, and the line of an ISN; for debugging and for other implementations."""

from __future__ import annotations

import ipaddress
import re
import time
from pathlib import Path
from typing import BinaryIO

import click

from torknock.cli.open_keyring import open_keyring
from torknock.cli.options import WordChoice, keyring_option, read_secret, say
from torknock.errors import TorknockError
from torknock.keyring.line_errors import LineErased, LineRevoked
from torknock.operate.pasted import LONGEST, read
from torknock.protocol.bridge_line import Line, Scheme
from torknock.protocol.knock import integrity_code
from torknock.protocol.knock import isn as knock_isn
from torknock.protocol.token import NEIGHBOURS, epoch_at

_LAST_EPOCH = 2**64 - 1
_PAYLOAD_AT_MOST = 65_535
"""Octets that an integrity code covers."""


class UnknownISN(TorknockError):
    """No line in the keyring derives this ISN."""

    def __init__(self, isn: int, first: int, last: int) -> None:
        super().__init__(
            f"{isn:#010x} belongs to no line of this keyring in the epochs {first} to {last} (those of "
            "revoked and expired lines are erased)",
            "look at more epochs with --window",
        )


class NoTokens(TorknockError):
    """The line is of the other scheme."""

    def __init__(self) -> None:
        super().__init__("the line is of scheme knock: its ISNs depend on the SYN", "see torknock isn --scheme knock")


def number(text: str) -> int:
    """The ISN that *text* is, in decimal or as 0x and hexadecimal digits. Raises `click.BadParameter`."""
    if re.fullmatch(r"0x[0-9A-Fa-f]{1,8}|0|[1-9][0-9]{0,9}", text) and int(text, 0) < 2**32:
        return int(text, 0)
    raise click.BadParameter("an ISN is a number below 2**32, such as 0x1234abcd or 305441741")


bridge_line_option = click.option(
    "--bridge-line",
    type=click.File("rb"),
    metavar="FILE",
    help="Read a bridge line from FILE, or from stdin if FILE is -; no keyring is needed.",
)
epoch_option = click.option(
    "--epoch",
    type=click.IntRange(0, _LAST_EPOCH),
    metavar="N",
    help="This epoch (300 s each).  [the present one]",
)


@click.group(
    invoke_without_command=True,
    epilog="Example: torknock isn --scheme knock --address 192.0.2.7 --port 443 --secret-file secret --tsval 4711",
)
@click.option("--scheme", type=WordChoice([Scheme.KNOCK]), help="Print the ISN of a single knock (knock.md).")
@click.option("--address", metavar="IP", help="The destination, as it stands in the SYN.")
@click.option("--port", type=click.IntRange(0, 65535), help="The destination port.")
@click.option("--secret-file", type=click.File("rb"), metavar="FILE", help="The secret, 1 to 64 octets.")
@click.option("--tsval", type=click.IntRange(0, 2**32 - 1), default=0, help="The SYN's TSval; 0 if it has none.")
@click.option("--payload-file", type=click.File("rb"), metavar="FILE", help="What the integrity code covers.")
@click.pass_context
def isn(
    ctx: click.Context,
    scheme: Scheme | None,
    address: str | None,
    port: int | None,
    secret_file: BinaryIO | None,
    tsval: int,
    payload_file: BinaryIO | None,
) -> None:
    """The ISNs that open a bridge, and the line that an ISN belongs to.

    For debugging, and to compare with other implementations (protocol.md, section 2; knock.md).
    """
    if ctx.invoked_subcommand is not None:
        return
    if scheme is None:
        click.echo(ctx.get_help())
        return
    if address is None or port is None or secret_file is None:
        raise click.UsageError("--scheme knock needs --address, --port and --secret-file")
    try:
        octets = ipaddress.ip_address(address).packed
    except ValueError:
        raise click.UsageError("--address is an IPv4 or IPv6 address, without brackets") from None
    secret = read_secret(secret_file)
    code = None if payload_file is None else integrity_code(secret, payload_file.read(_PAYLOAD_AT_MOST))
    say(f"{knock_isn(secret, octets, port, tsval, code):#010x}")


@isn.command("list", epilog="Example: torknock isn list alice --epoch 5984821")
@click.argument("name", required=False)
@epoch_option
@bridge_line_option
@keyring_option
def list_(name: str | None, epoch: int | None, bridge_line: BinaryIO | None, keyring: Path) -> None:
    """Print the ISNs of a line in an epoch, one a line, in derivation order.

    The line is the one called NAME in the keyring, or the one in the file that --bridge-line names.
    """
    if (name is None) == (bridge_line is None):
        raise click.UsageError("name a line, or a file with --bridge-line")
    if bridge_line is not None:
        line = _read(bridge_line)
    else:
        with open_keyring(keyring) as opened:
            issued = opened.get(name or "")
        if issued.erased:
            raise LineErased(issued.name) if issued.revoked is None else LineRevoked(issued.name)
        line = _of_tokens(issued.line)
    epoch = epoch_at(time.time()) if epoch is None else epoch
    say("\n".join(f"{value:#010x}" for value in line.tokens(epoch)))


@isn.command(epilog="Example: torknock isn which 0x1234abcd --window 12")
@click.argument("isn", type=number)
@epoch_option
@click.option(
    "--window",
    type=click.IntRange(0, 10_000),
    default=NEIGHBOURS,
    show_default=True,
    metavar="K",
    help="Also search so many epochs before and after.",
)
@bridge_line_option
@keyring_option
def which(isn: int, epoch: int | None, window: int, bridge_line: BinaryIO | None, keyring: Path) -> None:
    """Print the line and the epoch that ISN belongs to.

    ISN is decimal, or hexadecimal after 0x. ISNs of revoked and expired lines are not found, because their secrets are
    erased. The exit status is 1 if no line has it.
    """
    if bridge_line is not None:
        lines = {"this line": _read(bridge_line)}
    else:
        with open_keyring(keyring) as opened:
            live = opened.live(time.time())
        lines = {issued.name: issued.line for issued in live if issued.line.scheme is Scheme.TOKEN}
    present = epoch_at(time.time())
    middle = present if epoch is None else epoch
    epochs = range(max(0, middle - window), min(_LAST_EPOCH, middle + window) + 1)
    found = [
        f"{name} epoch {at} (now{at - present:+d})" if at != present else f"{name} epoch {at} (now)"
        for at in sorted(epochs, key=lambda at: abs(at - middle))
        for name, line in lines.items()
        if isn in line.tokens(at)
    ]
    if not found:
        raise UnknownISN(isn, epochs[0], epochs[-1])
    say("\n".join(found))


def _read(file: BinaryIO) -> Line:
    return _of_tokens(read(file.read(LONGEST + 1).decode("utf-8", "replace")).bridge_line.line)


def _of_tokens(line: Line) -> Line:
    if line.scheme is not Scheme.TOKEN:
        raise NoTokens
    return line
