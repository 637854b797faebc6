"""Reads the firewall of this network namespace, as nftables and both kinds of iptables have it; changes nothing.

Blocks: a running reactor calls it in a thread.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess  # noqa: TID251  in a thread, or in a command of root's, which has no reactor
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torknock.gate.interfaces import GateFailed
from torknock.gate.ruleset import PREFIX
from torknock.operate.firewall import iptables, nftables
from torknock.operate.firewall.fate import SYN, Judgement, judge

_WORTH_READING = ("inet_service", "ifname", "iface_index", "inet_proto")
"""Types of elements that a stranger's SYN may be one of; sets of addresses may be huge, and name no stranger."""


_SAMPLE = 3
"""Unused ports that are judged."""


@dataclass(frozen=True, slots=True)
class Firewall:
    """The rules of a host."""

    items: list[dict[str, Any]]
    """nftables', as its JSON has them, with the elements of the sets that matter."""
    saved: dict[int, str] = field(default_factory=dict)
    """What iptables-save says of the tables that nft cannot read out; the key is the IP version."""
    legacy: dict[int, str] = field(default_factory=dict)
    """The same of the other iptables, which nft does not know of."""

    def judge(self, port: int, version: int) -> Judgement:
        """What becomes of a stranger's SYN to *port*, before and without torknock's own rules."""
        syn = SYN(port, version, default_interface(version))
        theirs = _of_iptables(self.items)
        chains = nftables.chains(
            self.items, syn, lambda family, table: table.startswith(PREFIX) or (family, table) in theirs
        )
        chains |= iptables.chains(self.saved.get(version, ""), syn, "iptables")
        chains |= iptables.chains(self.legacy.get(version, ""), syn, "iptables-legacy")
        return judge(chains)

    def of_unused(self, used: set[int], versions: Sequence[int]) -> list[Judgement]:
        """The judgements of some ports that are not *used*, chosen by chance, over each of the IP *versions*."""
        sample: set[int] = set()
        while len(sample) < _SAMPLE:
            sample |= {1024 + secrets.randbelow(65536 - 1024)} - used
        return [self.judge(port, version) for port in sample for version in versions]

    def has_table(self, table: str) -> bool:
        """Whether there is a table of nftables called *table* in the family inet."""
        return any(it.get("table", {}).get("name") == table for it in self.items)


def look() -> Firewall:
    """The firewall now. Raises `GateFailed` if this process may not look, or has no `nft`."""
    items = _nft("--terse", "list", "ruleset")
    for item in list(items):
        kind, named = next(iter(item.items()))
        if kind in ("set", "map") and not named["table"].startswith(PREFIX) and _worth_reading(named):
            items.remove(item)
            items += _nft("list", kind, named["family"], named["table"], named["name"])
    saved: dict[int, str] = {}
    for family, table in sorted(_of_iptables(items)):
        version, program = (4, "iptables-nft-save") if family == "ip" else (6, "ip6tables-nft-save")
        saved[version] = saved.get(version, "") + _command(program, "-t", table, package="iptables")
    legacy = {}
    for version, name in ((4, "ip"), (6, "ip6")):
        if _tables_of(name):
            legacy[version] = _command(f"{name}tables-legacy-save", package="iptables")
    return Firewall(items, saved, legacy)


def routed(versions: Sequence[int]) -> Sequence[int]:
    """Those of the IP *versions* that have a default route here; the first if none has."""
    return [version for version in versions if default_interface(version)] or versions[:1]


def default_interface(version: int) -> str | None:
    """The interface of the default route, where strangers' packets come from; None if there is none."""
    try:
        routes = Path("/proc/thread-self/net", _ROUTES[version]).read_text()
    except OSError:
        return None
    for route in routes.splitlines():
        words = route.split()
        if version == 4 and words[1:2] == ["00000000"] and words[7:8] == ["00000000"]:
            return words[0]
        if version == 6 and words[:2] == ["0" * 32, "00"] and words[-1] != "lo":
            return words[-1]
    return None


_ROUTES = {4: "route", 6: "ipv6_route"}


def _nft(*arguments: str) -> list[dict[str, Any]]:
    try:
        told = json.loads(_command("nft", "--json", *arguments, package="nftables"))
        return [dict(item) for item in told["nftables"] if "metainfo" not in item]
    except (ValueError, KeyError, TypeError) as error:
        raise GateFailed("nft does not say the ruleset as JSON; apt-get install nftables") from error


def _command(name: str, *arguments: str, package: str) -> str:
    """What the program *name* writes. Raises `GateFailed` if it is missing, or ends with anything but 0."""
    path = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise GateFailed(f"the command {name} is missing; apt-get install {package}")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, errors="replace", check=False, env={})  # noqa: S603  ours
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        raise GateFailed(f"{name} {' '.join(arguments)} ended with {done.returncode}: {said or 'nothing said'}")
    return done.stdout


def _worth_reading(named: dict[str, Any]) -> bool:
    kinds = named.get("type", [])
    return any(kind in _WORTH_READING for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _of_iptables(items: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """The families and tables that iptables has made, and whose matches nft cannot read out."""
    return {
        (rule["family"], rule["table"])
        for item in items
        if (rule := item.get("rule")) and any("xt" in statement for statement in rule.get("expr", []))
    }


def _tables_of(name: str) -> str:
    try:
        return Path(f"/proc/thread-self/net/{name}_tables_names").read_text().strip()
    except OSError:
        return ""
