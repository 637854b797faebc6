"""Reads the firewall of this network namespace, as nftables and both kinds of iptables have it; changes nothing.

Blocks: a running reactor calls it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import subprocess  # noqa: TID251  in a thread, or in a command of root's, which has no reactor
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torknock.firewall import iptables_rules, nft_rules
from torknock.firewall.fate import SYN, Chain, Fate, Judgement, Place, judge
from torknock.firewall.listed import FirewallUnreadable, items
from torknock.protocol.door import PREFIX
from torknock.redact import redact

_WORTH_READING = ("inet_service", "ifname", "iface_index", "inet_proto")
"""Types of elements that a stranger's SYN may be one of; sets of addresses may be huge, and name no stranger."""


_ENDS_WITHIN = 30.0
"""Seconds that a program has; then it is killed."""

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
    texts: nft_rules.Texts = field(default_factory=dict)
    """nftables' rules as people write them."""
    attached: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Programs that get packets before any rule, by interface."""

    def judge(self, port: int, version: int, address: str | None = None) -> Judgement:
        """What becomes of a stranger's SYN to *port*, before and without torknock's own rules.

        *address* is the one of this host's that it is sent to, if it is known.
        """
        syn = SYN(port, version, default_interface(version), address)
        while (found := self._chains(syn)) and (changed := _changes(found)) - syn.changed:
            syn = replace(syn, changed=syn.changed | changed)
        judged = judge(found)
        programs = self.attached.get(syn.interface or "", ())
        if not programs:
            return judged
        return replace(judged, fates=judged.fates | {Fate.UNKNOWN}, doubts=(*programs, *judged.doubts))

    def _chains(self, syn: SYN) -> dict[Place, Chain]:
        theirs = _of_iptables(self.items)
        found = nft_rules.chains(
            self.items, syn, lambda family, table: table.startswith(PREFIX) or (family, table) in theirs, self.texts
        )
        found |= iptables_rules.chains(self.saved.get(syn.version, ""), syn, "iptables")
        return found | iptables_rules.chains(self.legacy.get(syn.version, ""), syn, "iptables-legacy")

    def of_unused(self, used: set[int], versions: Sequence[int]) -> list[Judgement]:
        """The judgements of some ports that are not *used*, chosen by chance, over each of the IP *versions*."""
        sample: set[int] = set()
        while len(sample) < _SAMPLE:
            sample |= {1024 + secrets.randbelow(65536 - 1024)} - used
        return [self.judge(port, version) for port in sample for version in versions]

    def has_table(self, table: str) -> bool:
        """Whether there is a table of nftables called *table* in the family inet."""
        return any(it.get("table", {}).get("name") == table for it in self.items)


def taken(port: int, versions: Sequence[int], address: str | None) -> str:
    """A rule of address translation that takes, or may take, SYNs to *port* elsewhere, without its addresses.

    *address* is this host's, None for every one. "" if there is no such rule, or the rules cannot be read.
    """
    try:
        firewall = _rules()
    except FirewallUnreadable:
        return ""
    with contextlib.suppress(FirewallUnreadable):  # those need CAP_NET_RAW, which no service has
        firewall = replace(firewall, legacy=_legacy())
    takers = (rule for version in versions for rule in firewall.judge(port, version, address).takers)
    return redact(next(takers, ""))


def look() -> Firewall:
    """The firewall now. Raises `FirewallUnreadable` if this process may not look, or a command is missing."""
    interfaces = {each for version in (4, 6) if (each := default_interface(version))}
    return replace(_rules(), legacy=_legacy(), attached={each: programs(each) for each in interfaces})


def _rules() -> Firewall:
    """nftables' rules, and those of the iptables that writes them."""
    found = _nft("--terse", "list", "ruleset")
    for item in list(found):
        kind, named = next(iter(item.items()))
        if kind in ("set", "map") and not named["table"].startswith(PREFIX) and _worth_reading(named):
            found.remove(item)
            found += _nft("list", kind, named["family"], named["table"], named["name"])
    saved: dict[int, str] = {}
    for family, table in sorted(_of_iptables(found)):
        version, program = (4, "iptables-nft-save") if family == "ip" else (6, "ip6tables-nft-save")
        saved[version] = saved.get(version, "") + _command(program, "-t", table, package="iptables")
    return Firewall(found, saved, texts=_texts(found))


def _legacy() -> dict[int, str]:
    """The rules of the other iptables, as `Firewall.legacy` has them."""
    names = {4: "ip", 6: "ip6"}
    return {
        version: _command(f"{name}tables-legacy-save", package="iptables")
        for version, name in names.items()
        if _tables_of(name)
    }


def programs(interface: str) -> tuple[str, ...]:
    """What gets the packets of *interface* before any rule: programs of XDP, and filters of tc.

    Raises `FirewallUnreadable`.
    """
    found = []
    if any("xdp" in link for link in _json("ip", "-details", "link", "show", "dev", interface)):
        found.append(f"the XDP program on {interface}: ip link show dev {interface}")
    if _json("tc", "filter", "show", "dev", interface, "ingress"):
        found.append(f"the filter on {interface}: tc filter show dev {interface} ingress")
    return tuple(found)


def _json(name: str, *arguments: str) -> list[Any]:
    try:
        return list(json.loads(_command(name, "-json", *arguments, package="iproute2") or "[]"))
    except (ValueError, TypeError) as error:
        raise FirewallUnreadable(f"{name} does not speak JSON", "apt-get install iproute2") from error


def _changes(found: Mapping[Place, Chain]) -> frozenset[str]:
    """What rules that may apply change about the SYN that *found* was made for."""
    rules = (rule for chain in found.values() for rule in chain.rules if rule.applies is not False)
    return frozenset[str]().union(*(rule.changes for rule in rules))


def _texts(listed: list[dict[str, Any]]) -> nft_rules.Texts:
    """The text of each rule in *listed* that is neither ours nor of iptables."""
    theirs, texts = _of_iptables(listed), {}
    tables = {(rule["family"], rule["table"]) for item in listed if (rule := item.get("rule"))}
    for family, table in sorted(tables - theirs):
        if not table.startswith(PREFIX):
            written = _command("nft", "--terse", "--handle", "list", "table", family, table, package="nftables")
            for text, handle in _RULE.findall(written):
                texts[family, table, int(handle)] = text
    return texts


_RULE = re.compile(r"^\t\t(\S.*) # handle (\d+)$", re.MULTILINE)


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
    return items(_command("nft", "--json", *arguments, package="nftables"))


def _command(name: str, *arguments: str, package: str) -> str:
    """What the program *name* writes.

    Raises `FirewallUnreadable` if it is missing, ends with anything but 0, or not within `_ENDS_WITHIN`.
    """
    path = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise FirewallUnreadable(f"the command {name} is missing", f"apt-get install {package}")
    try:
        done = subprocess.run(  # noqa: S603  ours
            [path, *arguments], capture_output=True, text=True, errors="replace", check=False, env={},
            stdin=subprocess.DEVNULL, timeout=_ENDS_WITHIN,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        words = f"{name} {' '.join(arguments)}"
        raise FirewallUnreadable(f"{words} has not ended within {_ENDS_WITHIN:.0f} s, and was killed") from None
    except OSError as error:  # no process can be made, or this one may not run it
        raise FirewallUnreadable(f"{name} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        raise FirewallUnreadable(f"{name} {' '.join(arguments)} ended with {done.returncode}: {said or 'nothing said'}")
    return done.stdout


def _worth_reading(named: dict[str, Any]) -> bool:
    kinds = named.get("type", [])
    return any(kind in _WORTH_READING for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _of_iptables(listed: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """The families and tables that iptables has made, and whose matches nft cannot read out."""
    return {
        (rule["family"], rule["table"])
        for item in listed
        if (rule := item.get("rule")) and any("xt" in statement for statement in rule.get("expr", []))
    }


def _tables_of(name: str) -> str:
    try:
        return Path(f"/proc/thread-self/net/{name}_tables_names").read_text().strip()
    except OSError:
        return ""
