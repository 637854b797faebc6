"""Conditions of what root lets the gate service guard, and of a filtered port's silence from boot on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torknock.kernel.files import ROOT
from torknock.kernel.places import SYSTEMD_RUNS, UNITS
from torknock.operate.finding import Finding, not_ok, ok, unknown
from torknock.operate.setup.doors import FILTERED, FILTERED_UNIT
from torknock.service.access import ACCESS, AccessDenied, Entry, read, silence

_AS_ROOT = "run torknock doctor as root"
_MEND = "as root: torknock setup bridge"
_ENABLED = UNITS / "sysinit.target.wants" / FILTERED_UNIT


def listed(door: Entry, path: Path = ACCESS, trusted: Collection[int] = ROOT) -> Finding:
    """Whether the access list at *path* has *door*, which is what torrc and tor's user make of the bridge.

    *trusted* are the uids that may own the list.
    """
    name = "access list"
    try:
        entries = read(path, trusted)
    except AccessDenied as error:
        if isinstance(error.__cause__, PermissionError):
            return unknown(name, error.what, _AS_ROOT)
        return not_ok(name, error.what, error.remedy or _MEND)
    if door in entries:
        return ok(name, f"{path} lets {door.user} guard port {door.port} as {door.posture.value}")
    there = [each for each in entries if (each.port, each.user) == (door.port, door.user)]
    what = f"has port {door.port} otherwise than torrc" if there else f"does not have port {door.port} for {door.user}"
    return not_ok(name, f"{path} {what}: the service refuses to guard it", _MEND)


def silent_from_boot(
    door: Entry, rules: Path = FILTERED, enabled: Path = _ENABLED, systemd: Path = SYSTEMD_RUNS
) -> Finding:
    """Whether *door*, which is filtered, is silent before the service runs: what *rules* has, and who loads it."""
    name = "silence at boot"
    try:
        text = rules.read_text("utf-8", "replace")
    except FileNotFoundError:
        return not_ok(name, f"there is no {rules}: the port answers RST until torknock gate runs", _MEND)
    except OSError as error:
        return unknown(name, f"{rules} cannot be read: {error.strerror}", _AS_ROOT)
    if silence([door]) not in text:
        return not_ok(name, f"{rules} does not have port {door.port}: it answers RST until torknock gate runs", _MEND)
    if not systemd.is_dir():
        return unknown(name, "there is no systemd that loads the rules", f"have this run at boot: nft -f {rules}")
    if not enabled.exists():
        why = f"{FILTERED_UNIT} is not enabled: the port answers RST until torknock gate runs"
        return not_ok(name, why, f"as root: systemctl enable --now {FILTERED_UNIT}")
    return ok(name, f"{FILTERED_UNIT} loads the rules of port {door.port} before the network is up")
