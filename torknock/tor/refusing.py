"""Why a tor that runs takes no clients, in words. Pure."""

from __future__ import annotations

HIBERNATING, INTERVAL_END = "accounting/hibernating", "accounting/interval-end"
"""What `GETINFO` is asked for (control-spec)."""

DISABLED = "DisableNetwork"
"""What `GETCONF` is asked for."""


def refusing(hibernating: str, interval_end: str, disabled: str) -> str:
    """What tor is doing instead of taking clients, and until when; empty if it takes them.

    The arguments are tor's answers to `HIBERNATING`, `INTERVAL_END` and `DISABLED`; empty where it gave none.
    """
    if disabled == "1":
        return "has no network until DisableNetwork is 0"
    match hibernating:
        case "soft":
            return f"takes no new connections (AccountingMax is nearly reached) until {interval_end} UTC or later"
        case "hard":
            return f"hibernates (AccountingMax is reached) until {interval_end} UTC or later"
        case "exiting":
            return "is shutting down, and takes no new connections"
    return ""
