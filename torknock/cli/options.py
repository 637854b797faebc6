"""What several verbs take, and how all of them speak."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from shutil import get_terminal_size
from typing import BinaryIO, TypeVar

import click

from torknock.errors import TorknockError
from torknock.kernel.places import DATA_DIRECTORY, keyring_within
from torknock.operate.addresses import refusal
from torknock.operate.pasted import LONGEST, read
from torknock.protocol.bridge_line import BridgeLine, LineError, parse_address, parse_fingerprint
from torknock.protocol.word import Word
from torknock.tor import CONTROL

W = TypeVar("W", bound=Word)

KEYRING = keyring_within(DATA_DIRECTORY)
"""Where the keyring is if Debian's tor runs the bridge."""

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class OutputFailed(TorknockError):
    """The output cannot be written to stdout."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot write the answer: {reason}")


def duration(text: str) -> int:
    """The seconds that *text*, such as `90d`, is. Raises `click.BadParameter`."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mhdw])", text)
    if found is None:
        raise click.BadParameter("write a number and m, h, d or w, such as 30m, 12h, 90d or 2w")
    return int(found[1]) * _SECONDS[found[2]]


def until(text: str) -> int:
    """When *text* is over, in seconds since 1970: `90d` from now, or the day `2027-01-31` (UTC).

    Raises `click.BadParameter`, also for a day that is over.
    """
    now = time.time()
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        try:
            return int(now) + duration(text)
        except click.BadParameter:
            raise click.BadParameter("write 30m, 12h, 90d or 2w, or a day such as 2027-01-31") from None
    try:
        day = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise click.BadParameter(f"there is no day {text}") from None
    end = int(day.timestamp()) + 86_399
    if end <= now:
        raise click.BadParameter(f"{text} is over")
    return end


def address(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """The address and port that *text* is (`parse_address`). Raises `click.BadParameter`."""
    try:
        where = parse_address(text)
    except LineError as error:
        raise click.BadParameter(str(error)) from error
    reachable(where[0])
    return where


def reachable(address: IPv4Address | IPv6Address) -> None:
    """Raise `click.BadParameter` unless clients can connect to *address*."""
    if reason := refusal(address):
        raise click.BadParameter(f"{address} {reason}; name the address that clients connect to")


def fingerprint(text: str) -> str:
    """The fingerprint that *text* is, in upper case. Raises `click.BadParameter`."""
    try:
        return parse_fingerprint(text)
    except LineError as error:
        raise click.BadParameter(str(error)) from error


keyring_option = click.option(
    "--keyring",
    type=click.Path(path_type=Path),
    default=KEYRING,
    show_default=True,
    metavar="DIR",
    help="The bridge's keyring.",
)


control_option = click.option(
    "--control", default=CONTROL, show_default=True, metavar="PATH|IP:PORT", help="tor's control socket or port."
)
password_option = click.option("--password", "asks", is_flag=True, help="Ask for the password of tor's control port.")


def control_password(asks: bool) -> str | None:
    """The password, if *asks* says that there is one."""
    return click.prompt("Password of tor's control port", hide_input=True, err=True) if asks else None


class WordChoice(click.Choice[W]):
    """One of some members of a `Word`, written as its value."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:
        """The word of the member *choice*; click's own is its name in Python. A word that was given is itself."""
        return str(choice)


def helper_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--helper`: the socket of the service that has CAP_NET_ADMIN."""
    return click.option(
        "--helper", default=default, show_default=True, metavar="PATH", help="The socket of the privileged service."
    )


def read_bridge_line(words: Sequence[str]) -> BridgeLine:
    """The bridge line that the arguments *words* are, or stdin if they are `-`; repairs are reported on stderr.

    Raises `LineError`.
    """
    text = " ".join(words)
    if text == "-":
        if sys.stdin.isatty():
            click.echo("paste the bridge line, then press Enter and Ctrl-D", err=True)
        text = sys.stdin.buffer.read(LONGEST + 1).decode("utf-8", "replace")
    pasted = read(text)
    if pasted.repairs:
        click.echo(f"torknock: {pasted.report}", err=True)
    return pasted.bridge_line


def read_secret(file: BinaryIO) -> bytes:
    """The secret in *file*, without the line end at its end. Raises `click.UsageError` unless it is 1..64 octets."""
    secret = file.read(1024).removesuffix(b"\n").removesuffix(b"\r")
    if not 1 <= len(secret) <= 64:
        raise click.UsageError("the secret in the file of --secret-file is not 1 to 64 octets long")
    return secret


def say_code(code: str) -> None:
    """Write the QR *code*; in a pager where the terminal has fewer lines, since a code that has scrolled is none."""
    rows = code.count("\n") + 1
    if not sys.stdout.isatty() or rows < get_terminal_size().lines:
        say(code)
        return
    hint = f"The code has {rows} lines: make this window taller, or its font smaller, to see it whole. q ends this."
    click.echo_via_pager(f"{hint}\n{code}\n", color=True)


def say(text: str) -> None:
    """Write *text* and a line end to stdout; `?` stands for characters that its encoding lacks.

    Raises `OutputFailed`, and `BrokenPipeError` if its reader has gone: click then ends quietly.
    """
    if sys.stdout is None:
        raise OutputFailed("stdout is closed")
    try:
        click.echo(text.encode(encoding(), "replace").decode(encoding()))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(error.strerror or type(error).__name__) from error


def encoding() -> str:
    """The encoding of stdout."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"
