"""The claim on a door: one process guards it, and no program serves it."""

from __future__ import annotations

from pathlib import Path

from torknock.interfaces import DoorTaken, GateFailed
from torknock.kernel.lock import try_lock
from torknock.kernel.proc import is_served, network_namespace
from torknock.protocol.door import Door, Posture


def claim(door: Door, directory: Path) -> int:
    """A file descriptor that is the right to guard *door* until it is closed, also by the end of the process.

    The claims on all doors of a host are files in *directory*, which its owner and root alone can enter. A door is one
    of a network namespace. Raises `DoorTaken`, and `GateFailed` if nothing can be claimed there.
    """
    try:
        held = try_lock(directory, f"{network_namespace()}-{door.table}")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GateFailed(f"port {door.port} cannot be claimed in {directory}: {reason}", "see who owns it") from error
    if held is None:
        raise DoorTaken(
            f"another torknock guards port {door.port}", "stop it, or give this one another ServerTransportListenAddr"
        )
    return held


def fail_if_served(door: Door) -> None:
    """Raise `GateFailed` if a program listens on *door*'s port, unless it is the decoy."""
    if door.posture is not Posture.DECOY and is_served(door.host, door.port):
        raise GateFailed(
            f"another program listens on port {door.port}; end it, hide a port that no program serves, or make it "
            "the decoy (posture=decoy)"
        )
