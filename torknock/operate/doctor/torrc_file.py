"""Conditions of Debian's torrc as it is on the disk: what tor reads at its next start or reload."""

from __future__ import annotations

from pathlib import Path

from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.setup.debian_tor import HOLD
from torknock.operate.setup.place import SNIPPET, TORRC, includes
from torknock.operate.sides import Side

_DIRECTLY = "to let tor connect to the Tor network directly instead: torknock setup --undo --direct"


def included(side: Side, torrc: Path = TORRC, snippet: Path = SNIPPET) -> list[Finding]:
    """Whether *torrc* includes *snippet*, torknock's part of it; nothing if no set-up has written that."""
    try:
        if not snippet.exists():
            return []
        there = includes(torrc, snippet)
    except OSError as error:
        return [unknown("torrc", f"{torrc} cannot be read: {error.strerror}", "run torknock doctor as root")]
    if there:
        return [ok("torrc", f"it includes {snippet}")]
    effect = "connects to the Tor network directly" if side is Side.CLIENT else "is no hidden bridge any more"
    why = f"{torrc} does not include {snippet}: once tor reads it again, tor {effect}"
    return [not_ok("torrc", why, f"as root: {_again(side)}")]


def held(side: Side | None, hold: Path = HOLD, torrc: Path = TORRC, snippet: Path = SNIPPET) -> Finding | None:
    """Why systemd does not start Debian's tor, which does not run; None if nothing keeps it from starting.

    *side* is None if it is not known.
    """
    try:
        if not hold.exists():
            return None
        there = snippet.exists() and includes(torrc, snippet)
    except OSError as error:
        return unknown("tor", f"{torrc} cannot be read: {error.strerror}", "run torknock doctor as root")
    if there:
        why = f"no tor runs, and systemd starts it only if {torrc} as a whole makes it a bridge or a client of bridges"
        return not_ok("tor", why, "as root: systemctl start tor@default, and see systemctl status tor@default")
    why = f"no tor runs, and systemd does not start it before {torrc} includes {snippet} ({hold})"
    return not_ok("tor", why, f"as root: {_again(side)}; {_DIRECTLY}")


def _again(side: Side | None) -> str:
    """The command that has torrc include torknock's part again."""
    return side.setup_command if side is not None else ", or ".join(each.setup_command for each in Side)
