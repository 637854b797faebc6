"""`torknock status`: what the running bridge does."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.cli.in_reactor import in_reactor, installed
from torknock.cli.options import control_option, keyring_option, say
from torknock.kernel.interfaces import IReactor
from torknock.operate.status_view import Report, as_json, follow, look, picture
from torknock.tor.watch import Watch


@click.command(epilog="Example: torknock status --once")
@click.option("--json", "machine", is_flag=True, help="Print one JSON object, and exit.")
@click.option("--once", is_flag=True, help="Print it once, and exit.")
@control_option
@keyring_option
def status(machine: bool, once: bool, control: str, keyring: Path) -> None:
    """Show what the running bridge does, every second until q or Ctrl-C.

    Prints it once if stdout is not a terminal. A client's address is never shown: the bridge does not publish it.
    """
    reactor = installed()
    watch = Watch(reactor, control)
    console = Console()
    if machine or once or not sys.stdout.isatty():
        report = in_reactor(reactor, look(reactor, keyring, watch))
        if report is None:
            raise KeyboardInterrupt
        say(as_json(report) if machine else _drawn(console, report))
        return
    seen: list[Report] = []

    def show(report: Report) -> None:
        seen[:] = [report]
        live.update(picture(report), refresh=True)

    with Live(console=console, auto_refresh=False, screen=True) as live, _ended_by_q(reactor):
        in_reactor(reactor, follow(reactor, keyring, watch, show))
    for report in seen:
        say(_drawn(console, report))


@contextmanager
def _ended_by_q(reactor: IReactor) -> Iterator[None]:
    """Within this, the key q stops the *reactor*. Keys are read one by one, and not echoed, if stdin is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    keys = _Keys(reactor)
    before = termios.tcgetattr(keys.fileno())
    tty.setcbreak(keys.fileno())
    reactor.addReader(keys)
    try:
        yield
    finally:
        termios.tcsetattr(keys.fileno(), termios.TCSADRAIN, before)


@implementer(IReadDescriptor)
class _Keys:
    """Reads the keys that are typed."""

    def __init__(self, reactor: IReactor) -> None:
        self._reactor = reactor

    def fileno(self) -> int:
        return sys.stdin.fileno()

    def logPrefix(self) -> str:
        return "keys"

    def doRead(self) -> None:
        typed = os.read(self.fileno(), 64)
        if b"q" in typed.lower():
            self._reactor.stop()
        if not typed:
            self._reactor.removeReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has ended."""


def _drawn(console: Console, report: Report) -> str:
    with console.capture() as captured:
        console.print(picture(report))
    return captured.get().rstrip("\n")
