"""Rules of address translation, as nftables writes them, read for one SYN. Pure.

Each condition holds for a stranger's SYN (True), does not (False), or is none that is understood here: it may hold
(None). Conditions of interest are protocol, port, interface and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from torknock.errors import TorknockError

Perhaps = bool | None
"""Whether something is so; None if that cannot be said."""

_DEEPEST = 16
"""Jumps that nftables follows."""


class RulesUnreadable(TorknockError):
    """What nft writes has not the form that nftables 1.0 gives it."""


@dataclass(frozen=True, slots=True)
class StrangersSYN:
    """A SYN from an address that no rule names."""

    port: int
    version: int
    """4 or 6."""
    address: str | None
    """The one of this host's that it is sent to; None if it may be any."""
    interface: str | None
    """Where it comes in, if that is known."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, with what is known of a SYN: whether it *applies*, and its *verdict* then.

    That is `take`, `end`, `return`, or `jump` or `goto` to *chain*; "" if the SYN goes on to the next rule.
    """

    applies: Perhaps
    verdict: str
    chain: str
    text: str
    """For people who have to look for it."""


Chains = Mapping[str, Sequence[Rule]]
"""The rules of a table, by the name of their chain."""


def takers(chains: Chains, base: str) -> list[str]:
    """The rules that take the SYN elsewhere, or may, on its way through the chain *base*."""
    found: list[str] = []
    _follow(chains, base, found, 0)
    return found


def _follow(chains: Chains, name: str, found: list[str], depth: int) -> bool:
    """Whether the SYN certainly leaves all chains in the one called *name*."""
    for rule in chains.get(name, ()) if depth < _DEEPEST else ():
        if rule.applies is False:
            continue
        ends = rule.verdict in ("take", "end")
        if rule.verdict == "take":
            found.append(rule.text)
        elif rule.verdict in ("jump", "goto"):
            ends = _follow(chains, rule.chain, found, depth + 1)
        if rule.applies and (ends or rule.verdict in ("return", "goto")):
            return ends
    return False


def of_nft(listed: Sequence[Mapping[str, Any]], syn: StrangersSYN, texts: Mapping[int, str]) -> Chains:
    """The rules in *listed*, one table of `nft --json` (libnftables-json(5)); *texts* are theirs, by handle.

    Raises `RulesUnreadable`.
    """
    try:
        named = [it for item in listed if (it := item.get("set") or item.get("map"))]
        reading = _Reading(syn, {f"@{it['name']}": it.get("elem", []) for it in named})
        chains: dict[str, list[Rule]] = {}
        for rule in (item["rule"] for item in listed if "rule" in item):
            text = f"rule {rule['handle']} in chain {rule['family']} {rule['table']} {rule['chain']}"
            text = f"{text}: {texts[rule['handle']]}" if rule["handle"] in texts else text
            chains.setdefault(rule["chain"], []).extend(reading.rules(rule["expr"], text))
    except _MISREAD as error:
        raise RulesUnreadable("nft does not write rules as nftables 1.0 does") from error
    return chains


_MISREAD = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)
_TAKING = ("dnat", "redirect")


class _Reading:
    """Rules of nftables for *syn*, with the elements of named *sets*."""

    def __init__(self, syn: StrangersSYN, sets: Mapping[str, Any]) -> None:
        self._syn = syn
        self._sets = sets

    def rules(self, statements: Sequence[Mapping[str, Any]], text: str) -> Iterator[Rule]:
        """Those that one rule is: one, or one for each element of a verdict map."""
        try:
            yield from self._read(statements, text)
        except _MISREAD:  # another version's way to write it
            yield Rule(None, "take" if any(name in it for it in statements for name in _TAKING) else "", "", text)

    def _read(self, statements: Sequence[Mapping[str, Any]], text: str) -> Iterator[Rule]:
        applies: Perhaps = True
        for statement in statements:
            [(kind, said)] = statement.items()
            match kind:
                case "match":
                    applies = all_of(applies, self._matches(said))
                case "dnat" | "redirect":
                    maps = [it["map"] for it in (said or {}).values() if isinstance(it, dict) and "map" in it]
                    ways = ([key for key, _ in self._elements(it["data"]) or [("*", None)]] for it in maps)
                    found = (self._is_one_of(it["key"], way) for it, way in zip(maps, ways, strict=True))
                    yield Rule(all_of(applies, *found), "take", "", text)
                case "jump" | "goto":
                    yield Rule(applies, kind, str(said["target"]), text)
                case "accept" | "drop" | "reject" | "return":
                    yield Rule(applies, "return" if kind == "return" else "end", "", text)
                case "vmap":
                    for key, verdict in self._elements(said["data"]) or ():
                        held = all_of(applies, self._is_one_of(said["key"], [key]))
                        yield from (replace(rule, applies=held) for rule in self._read([verdict], text))
                case "counter" | "log" | "comment" | "limit" | "snat" | "masquerade":
                    pass
                case _:
                    applies = all_of(applies, None)

    def _matches(self, said: Mapping[str, Any]) -> Perhaps:
        op, right, test = said["op"], said["right"], self._test(said["left"])
        if test is _absent:
            return False
        if op in ("==", "in", "!="):
            found = self._is_one_of(said["left"], self._elements(right))
            return opposite(found) if op == "!=" else found
        if test == self._is_port and isinstance(right, int):
            port = self._syn.port
            return {"<": port < right, ">": port > right, "<=": port <= right, ">=": port >= right}.get(op)
        return None

    def _elements(self, right: Any) -> Sequence[Any] | None:
        """What *right* has, pairs if it is a map; None if that is not known."""
        if isinstance(right, str) and right.startswith("@"):
            right = self._sets.get(right)
        elif isinstance(right, dict) and "set" in right:
            right = right["set"]
        return right if isinstance(right, list) or right is None else [right]

    def _is_one_of(self, left: Any, elements: Sequence[Any] | None) -> Perhaps:
        """Whether what *left* says of the SYN is one of *elements*, any of which may be "*": what no other is."""
        test = self._test(left)
        values = [it["elem"]["val"] if isinstance(it, dict) and "elem" in it else it for it in elements or ()]
        return None if elements is None else any_of(*(None if value == "*" else test(value) for value in values))

    def _test(self, left: Any) -> Callable[[Any], Perhaps]:
        """How a value is compared with what *left* says of the SYN."""
        syn = self._syn
        match left:
            case {"payload": {"protocol": "tcp" | "th", "field": "dport"}}:
                return self._is_port
            case {"payload": {"protocol": "ip" | "ip6" as family}} if family != ("ip" if syn.version == 4 else "ip6"):
                return _absent
            case {"payload": {"protocol": "udp" | "icmp" | "icmpv6" | "sctp" | "dccp"}}:
                return _absent
            case {"payload": {"field": "saddr"}}:
                return lambda atom: is_everywhere(_network(atom))
            case {"payload": {"field": "daddr"}}:
                return lambda atom: is_ours(_network(atom), syn)
            case {"payload": {"field": "protocol" | "nexthdr"}} | {"meta": {"key": "l4proto"}}:
                return lambda atom: atom in ("tcp", 6)
            case {"meta": {"key": "nfproto"}}:
                return lambda atom: atom in (("ipv4", 2) if syn.version == 4 else ("ipv6", 10))
            case {"meta": {"key": "iif" | "iifname"}}:
                return lambda atom: came_in_by(str(atom), syn, "*")
            case {"fib": {"result": "type", "flags": ["daddr", *_]}}:
                return lambda atom: bool(atom == "local")
            case {"ct": {"key": "state"}}:
                return lambda atom: bool(atom == "new")
            case {"concat": list(parts)}:
                return lambda atom: all_of(
                    *(self._test(part)(each) for part, each in zip(parts, atom["concat"], strict=True))
                )
        return lambda _atom: None

    def _is_port(self, atom: Any) -> Perhaps:
        match atom:
            case int():
                return atom == self._syn.port
            case {"range": [int(first), int(last)]}:
                return first <= self._syn.port <= last
        return None


def came_in_by(named: str, syn: StrangersSYN, wildcard: str) -> Perhaps:
    """Whether *syn* came in by what *named* says, which may end with the *wildcard*; never by loopback."""
    if named == "lo":
        return False
    if syn.interface is None:
        return None
    return syn.interface.startswith(named[:-1]) if named.endswith(wildcard) else syn.interface == named


def is_ours(address: str, syn: StrangersSYN) -> Perhaps:
    """Whether *syn* is sent to *address*, perhaps with a prefix length."""
    try:
        network = ip_network(address, strict=False)
    except ValueError:
        return None
    if network.prefixlen == 0 or syn.address is not None:
        return network.prefixlen == 0 or ip_address(syn.address or "") in network
    first = network.network_address
    return False if first.is_multicast or first.is_loopback or str(first) == "255.255.255.255" else None


def _network(atom: Any) -> str:
    """An address of nftables' JSON as text, with its prefix length."""
    match atom:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [first, last]}:
            return f"{first}-{last}"
    return str(atom)


def is_everywhere(network: str) -> bool:
    """Whether *network* is every address."""
    return network.endswith("/0")


def all_of(*claims: Perhaps) -> Perhaps:
    """Whether all of *claims* are so."""
    return False if False in claims else None if None in claims else True


def any_of(*claims: Perhaps) -> Perhaps:
    """Whether one of *claims* is so."""
    return True if True in claims else None if None in claims else False


def opposite(claim: Perhaps) -> Perhaps:
    """Whether *claim* is not so."""
    return None if claim is None else not claim


def _absent(_atom: Any) -> Perhaps:
    """The SYN has no such field: the rule is for another protocol."""
    return False
