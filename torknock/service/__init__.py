"""What both sides of the privilege line speak: lines of words over a Unix socket, with sockets beside them."""

from __future__ import annotations

from pathlib import Path

GATE_SOCKET = "/run/torknock/gate.sock"
"""Where the service that guards ports for bridges listens."""

DIAL_SOCKET = "/run/torknock/dial.sock"
"""Where the service that knocks for clients listens."""


def doors(path: str) -> Path:
    """The directory of the claims on doors that belongs to the gate service at the socket *path*."""
    return Path(path).parent / "doors"
