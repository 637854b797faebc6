"""Asks the kernel what this host's firewall does with a stranger's SYN; changes nothing, sends nothing out.

The rules of nftables and of both kinds of iptables are copied into a network namespace that is gone when the question
is answered, with an interface that is called as the host's. Our own tables are left out. What is no rule, or cannot be
copied, is "unknown". Blocks: a running reactor calls it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from torknock.kernel.blocking_program import ProgramFailed, output_of
from torknock.kernel.routes import default_interface
from torknock.operate.addresses import own_address
from torknock.operate.firewall.fate import SYN, Fate, Judgement, unjudged
from torknock.protocol.door import PREFIX

_SAMPLE = 3
"""Unused ports that are tried."""

_ALONE = ("--net", "--pid", "--fork", "--kill-child", "--mount-proc")
"""A child in namespaces of its own, which are gone, as its own children are, when it ends or is killed."""

_TRIAL = ("-I", "-m", "torknock.operate.firewall.trial")

_RESTORE = {
    ("nft", "ip"): "iptables-nft-restore", ("nft", "ip6"): "ip6tables-nft-restore",
    ("legacy", "ip"): "iptables-legacy-restore", ("legacy", "ip6"): "ip6tables-legacy-restore",
}  # fmt: skip
_VERSIONS = {"ip": 4, "ip6": 6}


@dataclass(frozen=True, slots=True)
class Firewall:
    """The rules of a host, but for ours."""

    text: str
    """nftables', as it writes them."""
    saved: Mapping[str, str]
    """Those that iptables has made, by the program that restores them."""
    tables: frozenset[str] = frozenset()
    """The names of all tables of the family inet."""
    interfaces: Mapping[int, str] = field(default_factory=dict)
    """Where strangers' SYNs come in, by IP version."""
    doubts: tuple[str, ...] = ()
    """What gets packets before any rule that is copied."""

    def judge(self, port: int, version: int, address: str | None = None) -> Judgement:
        """What becomes of a stranger's SYN to *port*; see `SYN`."""
        return self.judge_all([SYN(port, version, address)])[0]

    def judge_all(self, syns: Sequence[SYN]) -> list[Judgement]:
        """What becomes of each of *syns*."""
        texts = (self.text, *self.saved.values())
        named = {version: _named(version, texts) for version in {syn.version for syn in syns}}
        trials = [self._trials(syn, named[syn.version]) for syn in syns]
        try:
            answers = iter(self._try([trial for some in trials for trial in some]))
        except ProgramFailed as error:
            return [unjudged(f"the rules, which cannot be tried: {error.what}")] * len(syns)
        return [self._judgement(syn, [next(answers) for _ in some]) for syn, some in zip(syns, trials, strict=True)]

    def judge_unused(self, used: set[int], versions: Sequence[int]) -> list[Judgement]:
        """The judgements of some ports that are not *used*, chosen by chance, over each of the IP *versions*."""
        sample: set[int] = set()
        while len(sample) < _SAMPLE:
            sample |= {1024 + secrets.randbelow(65536 - 1024)} - used
        return self.judge_all([SYN(port, version) for port in sample for version in versions])

    def has_table(self, table: str) -> bool:
        """Whether there is a table of nftables called *table* in the family inet."""
        return table in self.tables

    def _trials(self, syn: SYN, named: list[tuple[int, int]]) -> list[dict[str, object]]:
        interface = self.interfaces.get(syn.version)
        if interface is None:
            return []
        source = str(_stranger(syn.version, named))
        return [
            {"interface": interface, "source": source, "address": address, "port": syn.port}
            for address in ([syn.address] if syn.address else _addresses(interface, syn.version))
        ]

    def _try(self, trials: list[dict[str, object]]) -> list[tuple[Fate, list[str]]]:
        """What `torknock.operate.firewall.trial` says. Raises `ProgramFailed`."""
        if not trials:
            return []
        rules = "".join((self.text, *self.saved.values()))
        devices = [name for name in _devices() if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", rules)]
        asked = {"nft": self.text, "saved": self.saved, "devices": devices, "syns": trials}
        output = output_of("unshare", *_ALONE, sys.executable, *_TRIAL, package="util-linux", stdin=json.dumps(asked))
        return [(Fate[each["fate"]], each["doubts"]) for each in json.loads(output)]

    def _judgement(self, syn: SYN, answers: list[tuple[Fate, list[str]]]) -> Judgement:
        if not answers:
            return unjudged(f"the interface of the default route over IPv{syn.version}, which has no address, or none")
        fates = {fate for fate, _ in answers}
        doubts = [*self.doubts, *(doubt for _, some in answers for doubt in some)]
        if doubts:
            return Judgement(frozenset(fates | {Fate.UNKNOWN}), tuple(dict.fromkeys(doubts)))
        differ = ("the rules that tell this host's own addresses apart",) if len(fates) > 1 else ()
        return Judgement(frozenset(fates), differ)


def look() -> Firewall:
    """The host's firewall, as it is now.

    Raises `ProgramFailed` if this process may not list the rules, or a command is missing.
    """
    listed = _json("nft", "--json", "--terse", "list", "ruleset", package="nftables")
    try:
        return _firewall(listed)
    except (AttributeError, KeyError, TypeError) as error:
        raise ProgramFailed(
            "nft does not write the ruleset as nftables 1.0 does", "apt-get install nftables"
        ) from error


def _firewall(listed: list[dict[str, Any]]) -> Firewall:
    """The firewall of which *listed* are the objects (libnftables-json(5)). Raises `ProgramFailed`."""
    tables = [(table["family"], table["name"]) for item in listed if (table := item.get("table"))]
    iptables = _made_by_iptables(listed)
    text = "".join(
        output_of("nft", "list", "table", family, name, package="nftables")
        for family, name in tables
        if (family, name) not in iptables and family not in ("bridge", "arp") and not name.startswith(PREFIX)
    )
    interfaces = {version: name for version in (4, 6) if (name := default_interface(version))}
    programs = (program for name in sorted({*interfaces.values()}) for program in _programs(name))
    return Firewall(
        text,
        _saved(iptables),
        frozenset(name for family, name in tables if family == "inet"),
        interfaces,
        (*programs, *_bridge_chains(listed), *_other_ingress(text, {*interfaces.values(), "lo"})),
    )


def routed(versions: Sequence[int]) -> Sequence[int]:
    """Those of the IP *versions* that have a default route here; the first if none has."""
    return [version for version in versions if default_interface(version)] or versions[:1]


def _saved(iptables: set[tuple[str, str]]) -> dict[str, str]:
    """What iptables-save writes of the tables *iptables*, and of those of the other iptables."""
    saved: dict[str, str] = {}
    for family, table in sorted(iptables):
        restore = _RESTORE["nft", family]
        output = output_of(restore.replace("restore", "save"), "-t", table, package="iptables")
        saved[restore] = saved.get(restore, "") + output
    for family in _VERSIONS:
        with contextlib.suppress(OSError):
            if Path(f"/proc/thread-self/net/{family}_tables_names").read_text().strip():
                restore = _RESTORE["legacy", family]
                saved[restore] = output_of(restore.replace("restore", "save"), package="iptables")
    return saved


def _made_by_iptables(listed: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """The families and tables that iptables has made, and whose matches nft cannot write out."""
    return {
        (rule["family"], rule["table"])
        for item in listed
        if (rule := item.get("rule")) and any("xt" in statement for statement in rule["expr"])
    }


def _bridge_chains(listed: list[dict[str, Any]]) -> list[str]:
    """Chains of bridges, by which a SYN may come: only a bridge with its ports would be a copy."""
    ruled = {(it["family"], it["table"], it["chain"]) for item in listed if (it := item.get("rule"))}
    return [
        f"chain bridge {chain['table']} {chain['name']}, at hook {chain['hook']}"
        for item in listed
        if (chain := item.get("chain")) and chain["family"] == "bridge" and chain.get("hook") in ("prerouting", "input")
        if chain.get("policy") == "drop" or ("bridge", chain["table"], chain["name"]) in ruled
    ]


_INGRESS = re.compile(r"^\t\ttype \S+ hook (?:ingress|egress) (device\S* .*?) priority ", re.MULTILINE)


def _other_ingress(text: str, known: set[str]) -> list[str]:
    """Chains of devices that are not *known*, such as the ports of a bridge by which a SYN comes."""
    return [
        f"a chain at a hook of {devices}"
        for devices in _INGRESS.findall(text)
        if not set(re.findall(r'"([^"]+)"', devices)) <= known
    ]


def _programs(interface: str) -> list[str]:
    """What gets the packets of *interface* before any rule: programs of XDP, and filters of tc."""
    found = []
    if any("xdp" in link for link in _json("ip", "-json", "-details", "link", "show", "dev", interface)):
        found.append(f"the XDP program on {interface}: ip link show dev {interface}")
    if _json("tc", "-json", "filter", "show", "dev", interface, "ingress"):
        found.append(f"the filter on {interface}: tc filter show dev {interface} ingress")
    return found


def _devices() -> list[str]:
    return [link["ifname"] for link in _json("ip", "-json", "link", "show")]


def _addresses(interface: str, version: int) -> list[str]:
    """Those of *interface* that strangers can send to."""
    own = own_address(version)
    family = {4: "inet", 6: "inet6"}[version]
    shown = _json("ip", "-json", "address", "show", "dev", interface)
    found = [
        it["local"]
        for link in shown
        for it in link.get("addr_info", ())
        if it["family"] == family and it["scope"] == "global" and not it.get("temporary")
    ]
    return list(dict.fromkeys([*([str(own)] if own else []), *found]))


def _json(name: str, *arguments: str, package: str = "iproute2") -> list[dict[str, Any]]:
    try:
        output = json.loads(output_of(name, *arguments, package=package) or "[]")
        return list(output["nftables"] if name == "nft" else output)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProgramFailed(f"{name} does not write JSON as expected", f"apt-get install {package}") from error


_NAMED = {
    4: re.compile(r"(\d+(?:\.\d+){3})(?:/(\d+)|-(\d+(?:\.\d+){3}))?"),
    6: re.compile(r"([0-9a-f]*:[0-9a-f:]*:[0-9a-f:.]*)(?:/(\d+)|-([0-9a-f:.]+))?"),
}


def _named(version: int, texts: Iterable[str]) -> list[tuple[int, int]]:
    """The first and last of all addresses that rules in *texts* name."""
    return [found for text in texts for match in _NAMED[version].findall(text) if (found := _range(*match))]


def _stranger(version: int, ranges: list[tuple[int, int]]) -> IPv4Address | IPv6Address:
    """An address of the Internet, chosen by chance, that is in none of *ranges*, unless they have too many."""
    for _ in range(100):
        chosen: IPv4Address | IPv6Address = (
            IPv4Address(secrets.randbits(32)) if version == 4 else IPv6Address((0x2600 << 112) | secrets.randbits(108))
        )
        known = any(first <= int(chosen) <= last for first, last in ranges)
        if chosen.is_global and not chosen.is_multicast and not known:
            return chosen
    return ip_address("8.8.8.8") if version == 4 else ip_address("2600::8")


def _range(first: str, length: str, last: str) -> tuple[int, int] | None:
    """The first and last of some addresses; None for none and for all."""
    try:
        network = ip_network(f"{first}/{length}" if length else first, strict=False)
        end = int(ip_address(last)) if last else int(network.broadcast_address)
    except ValueError:  # a time, or a hardware address
        return None
    start = int(network.network_address)
    return None if start == 0 and end == 2**network.max_prefixlen - 1 else (start, end)
