"""The interface that strangers' packets come in by, as /proc tells it."""

from __future__ import annotations

from pathlib import Path

_NET = Path("/proc/thread-self/net")
_ROUTES = {4: "route", 6: "ipv6_route"}


def default_interface(version: int) -> str | None:
    """The interface of the default route of an IP *version* in this network namespace; None if there is none."""
    try:
        routes = (_NET / _ROUTES[version]).read_text()
    except OSError:
        return None
    for route in routes.splitlines():
        words = route.split()
        if version == 4 and words[1:2] == ["00000000"] and words[7:8] == ["00000000"]:
            return words[0]
        if version == 6 and words[:2] == ["0" * 32, "00"] and words[-1] != "lo":
            return words[-1]
    return None
