"""`torknock status`: what the running bridge does."""

from __future__ import annotations

import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

from torknock.cli.options import control_option, keyring_option, say
from torknock.operate.status import Report, as_json, follow, look, picture
from torknock.tor.watch import Watch


@click.command(epilog="Example: torknock status --once")
@click.option("--json", "machine", is_flag=True, help="Say it once, as one JSON object.")
@click.option("--once", is_flag=True, help="Say it once, and do not go on.")
@control_option
@keyring_option
def status(machine: bool, once: bool, control: str, keyring: Path) -> None:
    """Show what the running bridge does, anew every second until Ctrl-C.

    Once if stdout is no terminal. No address of a client is ever shown, because none is known here.
    """
    from twisted.internet import reactor

    _steady(reactor)
    watch = Watch(reactor, control)
    console = Console()
    if machine or once or not sys.stdout.isatty():
        report = _run(reactor, look(reactor, keyring, watch))
        if report is None:
            raise KeyboardInterrupt
        say(as_json(report) if machine else _drawn(console, report))
        return
    with Live(console=console, auto_refresh=False) as live:
        _run(reactor, follow(reactor, keyring, watch, lambda seen: live.update(picture(seen), refresh=True)))


def _steady(reactor: Any) -> None:
    reactor.seconds = time.monotonic  # Twisted's own clock stands still when wall time is turned back


def _drawn(console: Console, report: Report) -> str:
    with console.capture() as captured:
        console.print(picture(report))
    return captured.get().rstrip("\n")


def _run(reactor: Any, sequence: Coroutine[Any, Any, Report | None]) -> Report | None:
    """What *sequence* returns or raises, in a *reactor* that is started for it; None if Ctrl-C ended it."""
    outcome: list[Report | Failure | None] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(sequence)
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        running.addBoth(outcome.append)
        running.addBoth(end)

    def end(_done: object) -> None:
        with suppress(ReactorNotRunning):  # Ctrl-C has stopped it
            reactor.stop()

    reactor.callWhenRunning(begin)
    reactor.run()
    for result in outcome:
        if not isinstance(result, Failure):
            return result
        if not result.check(CancelledError):
            result.raiseException()
    return None
