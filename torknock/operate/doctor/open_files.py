"""How many files the programs that run may open, and how many connections that allows."""

from __future__ import annotations

from collections.abc import Iterable

from torknock.kernel.descriptor_limit import OF_A_CLIENT, OF_A_PEER, OF_A_REQUEST, places
from torknock.kernel.proc import Process, may_open_files
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.sides import Side
from torknock.service.factory import CONNECTIONS

_NAME = "open files"

_LOW_FOR_A_BRIDGE = 1_024
_FEW = 32
"""Connections that any of the programs should be able to take at once."""

_EACH = {Side.BRIDGE.verb: (OF_A_CLIENT, "clients"), Side.CLIENT.verb: (OF_A_REQUEST, "connections of tor's")}
_REMEDY = "raise LimitNOFILE= of the unit (systemctl edit tor@default), or ulimit -n where tor is started; then restart"


def files(running: Iterable[tuple[str, Process | None]]) -> list[Finding]:
    """What the limits of the *running* programs, `torknock VERB` each, allow; nothing if none of them is seen."""
    seen = [(verb, process) for verb, process in running if process is not None]
    try:
        limits = [(verb, may_open_files(process.pid)) for verb, process in seen]
    except (OSError, ValueError):
        return [unknown(_NAME, "the limits of what runs cannot be read", "run torknock doctor as root")]
    return [judge(limits)] if limits else []


def judge(limits: Iterable[tuple[str, int]]) -> Finding:
    """The finding for programs that may open so many files each."""
    limits_shown, low = [], False
    for verb, limit in limits:
        each, whose = _EACH.get(verb, (OF_A_PEER, "programs"))
        room = places(limit, each) if verb in _EACH else min(places(limit, each), CONNECTIONS)
        limits_shown.append(f"torknock {verb} may open {limit:,}, enough for {room:,} {whose} at once")
        low = low or room < _FEW or (verb == Side.BRIDGE.verb and limit <= _LOW_FOR_A_BRIDGE)
    why = "; ".join(limits_shown)
    return not_ok(_NAME, why, _REMEDY) if low else ok(_NAME, why)
