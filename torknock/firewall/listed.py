"""The ruleset of nftables as `nft --json` tells it (libnftables-json(5)), once it is known to be as expected. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torknock.errors import TorknockError


class FirewallUnreadable(TorknockError):
    """The rules of this host cannot be listed."""


_NAMES = {
    "table": ("family", "name"), "chain": ("family", "table", "name"), "rule": ("family", "table", "chain"),
    "set": ("family", "table", "name"), "map": ("family", "table", "name"),
}  # fmt: skip
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "prio": int, "hook": str, "policy": str, "handle": int, "expr": list, "elem": list, "type": (str, list, dict),
    "dev": (str, list),
}  # fmt: skip
"""What stands under these names, if anything does."""


def items(told: str) -> list[dict[str, Any]]:
    """The objects that nft has *told*, but for its version. Raises `FirewallUnreadable` if they are not as expected.

    What stands in a rule is not looked at: who reads it must do with any value.
    """
    try:
        listed = [item for item in json.loads(told)["nftables"] if "metainfo" not in item]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FirewallUnreadable("nft does not say the ruleset as JSON", "apt-get install nftables") from error
    if not all(map(_is_known, listed)):
        raise FirewallUnreadable(
            "nft does not say the ruleset as nftables 1.0 does", "install that of the distribution"
        )
    return listed


def _is_known(item: Any) -> bool:
    """Whether *item* is one object of the ruleset, with its names."""
    if not isinstance(item, dict) or len(item) != 1:
        return False
    [(kind, said)] = item.items()
    if kind not in _NAMES:
        return True
    return (
        isinstance(said, dict)
        and all(isinstance(said.get(name), str) for name in _NAMES[kind])
        and all(isinstance(said[name], wanted) for name, wanted in _KINDS.items() if name in said)
        and all(isinstance(statement, dict) for statement in said.get("expr", ()))
        and ("hook" not in said or "prio" in said)
    )
