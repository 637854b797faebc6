"""JSON values that are like a given one, made by octets that choose what is different.

Octets that are changed at random are seldom JSON; a program that speaks JSON as another version of it would is what a
reader has to cope with.
"""

from __future__ import annotations

import json
from typing import Any

_OCTETS_AT_MOST = 18
"""More changes could make a value of any depth, each a copy of another."""

_OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 65536, 2**63, 0.5, "", "tcp", "*", "@set", "0.0.0.0/0", "::", "x" * 300, [], {}, [[]], ["a", 1],
    {"set": []}, {"elem": {"val": 1}}, {"prefix": {"addr": "::", "len": 0}}, {"range": [0, "z"]}, {"map": {}},
)  # fmt: skip


def altered(value: Any, octets: bytes) -> Any:
    """A copy of the JSON *value*; each 3 of the first *octets* choose a place in it, and what becomes of it."""
    copy = [json.loads(json.dumps(value))]
    for at in range(0, min(len(octets), _OCTETS_AT_MOST) - 2, 3):
        places = list(_places(copy))
        container, key = places[(octets[at] * 256 + octets[at + 1]) % len(places)]
        choice = octets[at + 2]
        if choice < len(_OTHERS):
            container[key] = json.loads(json.dumps(_OTHERS[choice]))
        elif choice < 128:
            other, name = places[choice % len(places)]
            container[key] = json.loads(json.dumps(other[name]))
        elif container is not copy and len(places) > 1:
            del container[key]
    return copy[0]


def _places(container: Any) -> list[tuple[Any, Any]]:
    """Every place in *container*, as a list or an object and an index or a name."""
    found: list[tuple[Any, Any]] = []
    waiting = [container]
    while waiting:
        each = waiting.pop()
        for key in range(len(each)) if isinstance(each, list) else each:
            found.append((each, key))
            if isinstance(each[key], (list, dict)):
                waiting.append(each[key])
    return found
