"""Which gate a bridge gets: its own, the service's, or a filter on its own listening socket."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from twisted.logger import Logger

from torknock.bridge.accept import Listener
from torknock.bridge.filter.filter_gate import FilterGate
from torknock.bridge.remote_gate import Lease
from torknock.bridge.stepped_gate import SteppedGate
from torknock.errors import TorknockError
from torknock.interfaces import IGate
from torknock.kernel.capability import may_administer_network
from torknock.kernel.interfaces import IReactor
from torknock.privileged.gate.kernel import Kernel
from torknock.privileged.gate.listeners import hidden_listeners, hidden_ports
from torknock.privileged.gate.nftables import DoorTable
from torknock.protocol.door import Door, Posture
from torknock.protocol.syn import Ask
from torknock.service import doors
from torknock.service.claim import fail_if_served
from torknock.service.requester import ServiceMissing, connect

_log = Logger()

MakeGate = Callable[[Ask], IGate]
"""Makes the gate, given whom it asks about SYNs without a token."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a door is guarded."""

    door: Door
    """Its posture is the one that was found where the operator named none."""
    make_gate: MakeGate
    no_knocks: str
    """Why lines of scheme `knock` open nothing through it; empty if they do."""


async def find_gate(
    reactor: IReactor, service: str, door: Door, any_posture: bool, listener: Listener, state: Path
) -> Entrance:
    """How *door* can be guarded.

    *service* is the socket of `torknock gate`. With *any_posture* the filter, which needs no privilege, may take its
    own posture instead of the door's. What comes through the gate is *listener*'s; *state* is a directory of the
    bridge's own. Raises `TorknockError`.
    """
    if may_administer_network():
        return Entrance(door, _own(reactor, door, listener, _claims(service, state)), _no_knocks(door.posture))
    try:
        (await connect(reactor, service)).close()
    except ServiceMissing as error:
        if not (any_posture or door.posture is Posture.FILTERED) or os.path.exists(service):
            raise LacksPower(error) from error
        _log.warn(
            "without CAP_NET_ADMIN and {missing}: a filter guards port {port}", missing=str(error), port=door.port
        )
        filtered = replace(door, posture=Posture.FILTERED)
        return Entrance(filtered, lambda _ask: FilterGate(reactor, filtered, listener, state / "doors"), _POWERLESS)

    def leased(ask: Ask) -> IGate:
        return SteppedGate(reactor, Lease(reactor, service, door, listener, ask))

    return Entrance(door, leased, _no_knocks(door.posture))


_POWERLESS = "judging a knock needs CAP_NET_ADMIN, or the service torknock gate"


def _no_knocks(posture: Posture) -> str:
    if posture.hides_judging:
        return ""
    return (
        f"the posture is {posture.value}, and judging their SYNs would delay each answer and so show the port; use "
        "posture=filtered in ServerTransportOptions, or as root: torknock setup bridge --posture filtered"
    )


class LacksPower(TorknockError):
    """Neither this process nor a service may guard the port as the operator wants it."""

    def __init__(self, missing: ServiceMissing) -> None:
        super().__init__(
            f"this process lacks CAP_NET_ADMIN, and there is {missing}",
            "as root: systemctl enable --now torknock-gate.socket, and see torknock doctor",
        )


def _claims(service: str, state: Path) -> Path:
    """Where a process that has the capability claims doors: root where the service does, which excludes both."""
    return doors(service) if os.geteuid() == 0 else state / "doors"


def _own(reactor: IReactor, door: Door, listener: Listener, claims: Path) -> MakeGate:
    fail_if_served(door)
    kernel = Kernel(reactor)
    listening = hidden_listeners(door.host, kernel.make_transparent)
    hidden = hidden_ports(listening)
    listener.adopt(listening)
    return lambda ask: SteppedGate(reactor, DoorTable(kernel, door, hidden, ask, claims))
