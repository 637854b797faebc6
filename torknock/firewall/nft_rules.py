"""nftables' rules, as `nft --json list ruleset` writes them (libnftables-json(5)), read for one SYN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from torknock.firewall.fate import (
    SYN,
    Back,
    Chain,
    Fate,
    Perhaps,
    Place,
    Rule,
    To,
    Unsaid,
    Verdict,
    any_of,
    both,
    opposite,
)

HOOKS = {"prerouting": 0, "input": 1}
"""The hooks of IP that a SYN to this host passes, in their order."""

_BEFORE_IP = {("netdev", "ingress"): -2, ("inet", "ingress"): -2, ("bridge", "prerouting"): -1, ("bridge", "input"): -1}
"""Hooks that it may pass before these, if it comes by their device, or by a bridge."""

_ELSEWHERE = {"forward", "output", "postrouting", "egress"}
"""Hooks that it does not pass."""

_HARMLESS = {"counter", "log", "comment", "ct helper", "ct timeout", "ct expectation", "secmark", "last",
             "continue"}  # fmt: skip
"""Statements that neither end a SYN's way nor ask anything of it nor change what rules ask."""

_HARMLESS_KEYS = {
    "meta": {"priority", "nftrace", "secmark"},
    "ct": {"label", "event", "secmark", "helper", "zone"},
    "ip": {"dscp", "ecn", "ttl"},
    "ip6": {"dscp", "ecn", "hoplimit", "flowlabel"},
}
"""What a rule may set without changing what becomes of the SYN."""

Test = Callable[[Any], Perhaps]
"""Whether a value that stands in a rule is the SYN's."""

Texts = Mapping[tuple[str, str, int], str]
"""Rules as nft writes them, by their family, table and handle."""

Sets = Mapping[Place, list[Any]]
"""The elements of named sets and maps, as far as they were read."""


class _Absent(Exception):
    """The SYN has no such field: the rule is for another protocol."""


def chains(
    items: list[dict[str, Any]], syn: SYN, ignored: Callable[[str, str], bool], texts: Texts | None = None
) -> dict[Place, Chain]:
    """The chains in *items* that *syn* may pass, but for those of families and tables that are *ignored*."""
    read = _Reading(syn, _sets(items), texts or {})
    families = {"inet", "ip" if syn.version == 4 else "ip6", "netdev", "bridge"}
    rules: dict[Place, list[Rule]] = {}
    bases: dict[Place, dict[str, Any]] = {}
    for item in items:
        if chain := item.get("chain"):
            if chain["family"] not in families or ignored(chain["family"], chain["table"]):
                continue
            place = (chain["family"], chain["table"], chain["name"])
            rules[place] = []
            if "hook" in chain and chain["hook"] not in _ELSEWHERE:
                bases[place] = chain
        elif rule := item.get("rule"):
            place = (rule["family"], rule["table"], rule["chain"])
            if place in rules:
                rules[place] += read.rule(rule, place)
    return {
        place: _base(bases[place], listed, syn) if place in bases else Chain(tuple(listed))
        for place, listed in rules.items()
    }


def _base(base: dict[str, Any], rules: list[Rule], syn: SYN) -> Chain:
    """The chain that a packet meets at the hook of *base*, with *rules*."""
    family, hook, kind = base["family"], base["hook"], base.get("type")
    policy = Fate.DROPPED if base.get("policy") == "drop" else Fate.PASSED
    if hook in HOOKS and family in ("inet", "ip", "ip6") and kind in ("filter", "nat"):
        return Chain(tuple(rules), (HOOKS[hook], base["prio"]), policy)
    where = f"chain {family} {base['table']} {base['name']}, at hook {hook}"
    order = (_BEFORE_IP.get((family, hook), min(_BEFORE_IP.values())), base.get("prio", 0))
    if (family, hook) not in _BEFORE_IP or kind != "filter":
        return Chain((Rule(True, Unsaid.ELSEWHERE, where),), order)
    passes = _by_device(base.get("dev"), syn.interface)
    met = [replace(rule, applies=both(passes, rule.applies)) for rule in rules]
    return Chain((*met, *([Rule(passes, policy, where)] if policy is Fate.DROPPED else [])), order)


def _by_device(devices: Any, interface: str | None) -> Perhaps:
    """Whether a SYN that comes in at *interface* passes a chain of *devices*; bridges and older nft name none."""
    if devices is None or interface is None:
        return None
    return None if interface in ([devices] if isinstance(devices, str) else devices) else False


def _sets(items: list[dict[str, Any]]) -> Sets:
    named = [item.get("set") or item.get("map") for item in items]
    return {(it["family"], it["table"], it["name"]): it["elem"] for it in named if it and "elem" in it}


class _Reading:
    def __init__(self, syn: SYN, sets: Sets, texts: Texts) -> None:
        self._syn = syn
        self._sets = sets
        self._texts = texts

    def rule(self, rule: dict[str, Any], place: Place) -> list[Rule]:
        """Those that *rule* is: one, or one for each element of a verdict map."""
        where = f"rule {rule.get('handle')} in chain {' '.join(place)}"
        text = self._texts.get((*place[:2], rule.get("handle", -1)))
        where += f": {text}" if text else ""
        try:
            return self._read(rule, place, where)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # another version's way to write it
            return [Rule(None, Unsaid.ELSEWHERE, where)]

    def _read(self, rule: dict[str, Any], place: Place, where: str) -> list[Rule]:
        applies: Perhaps = True
        verdicts: list[tuple[Perhaps, Verdict]] = []
        changes: set[str] = set()
        for statement in rule.get("expr", []):
            for kind, said in statement.items():
                if kind == "vmap":
                    found = self._mapped(said, place)
                elif kind in _CONDITIONS:
                    applies = both(applies, self._holds(kind, said, place))
                    changes |= _added(kind, said, place)
                    continue
                elif kind in ("dnat", "redirect"):
                    found = [(self._translated(said, place), Fate.TAKEN)]
                elif kind in _HARMLESS or (changed := _changed(kind, said)) is not None:
                    changes |= set() if kind in _HARMLESS else changed or set()
                    continue
                else:
                    verdict = _verdict(kind, said, place)
                    found = [(True, Unsaid.ELSEWHERE if verdict is None else verdict)]
                if (True, Unsaid.ELSEWHERE) not in verdicts:  # what was not understood may have happened already
                    verdicts = found
        read = [Rule(both(applies, chosen), verdict, where) for chosen, verdict in verdicts]
        return read + ([Rule(applies, None, where, frozenset(changes))] if changes else [])

    def _translated(self, said: Any, place: Place) -> Perhaps:
        """Whether there is a way that `dnat` or `redirect` takes the SYN: a map may have none for it."""
        named = [said.get(name) for name in ("addr", "port")] if isinstance(said, dict) else []
        return both(
            True, *(self._in_map(each["map"], place) for each in named if isinstance(each, dict) and "map" in each)
        )

    def _in_map(self, said: Any, place: Place) -> Perhaps:
        elements = self._elements(said["data"], place)
        return None if elements is None else any_of(self._test(said["key"])(_value(each[0])) for each in elements)

    def _mapped(self, said: Any, place: Place) -> list[tuple[Perhaps, Verdict]]:
        elements = self._elements(said["data"], place)
        if elements is None:
            return [(None, Unsaid.ELSEWHERE)]
        mapped: list[tuple[Perhaps, Verdict]] = []
        for atom, verdicts in sorted(elements, key=lambda element: element[0] == _ANYTHING_ELSE):
            try:
                applies = self._test(said["key"])(_value(atom))
            except _Absent:
                applies = False
            if atom == _ANYTHING_ELSE:
                applies = opposite(any_of(applied for applied, _ in mapped))
            for kind, target in verdicts.items():
                verdict = _verdict(kind, target, place)
                if verdict is not None or kind not in _HARMLESS:
                    mapped.append((applies, Unsaid.ELSEWHERE if verdict is None else verdict))
        return mapped

    def _holds(self, kind: str, said: Any, place: Place) -> Perhaps:
        """Whether the SYN passes a statement that gives no verdict."""
        if kind in ("limit", "ct count"):
            return not said.get("inv", False)  # one SYN is below every limit
        if kind in ("set", "meter"):
            inner = said.get("stmt", [])
            held = [inner] if isinstance(inner, dict) else inner
            return both(True, *(self._holds(name, it, place) for one in held for name, it in one.items()))
        if kind == "match":
            try:
                return self._matches(said, place)
            except _Absent:
                return False
        return None

    def _matches(self, said: Any, place: Place) -> Perhaps:
        op, right, test = said["op"], said["right"], self._test(said["left"])
        if op in ("==", "in", "!="):
            if isinstance(said["left"], dict) and "&" in said["left"]:
                found = test(right)
            else:
                elements = self._elements(right, place)
                if isinstance(right, str) and _set_name(right, place) in self._syn.changed:
                    found = None
                elif elements is None:
                    found = False if _names_a_source(said["left"]) else None
                elif _ANYTHING_ELSE in elements:
                    found = True
                else:
                    found = any_of(test(_value(element)) for element in elements)
            return opposite(found) if op == "!=" else found
        if said["left"] in _DPORT and isinstance(right, int):
            port = self._syn.port
            return {"<": port < right, ">": port > right, "<=": port <= right, ">=": port >= right}.get(op)
        return None

    def _elements(self, right: Any, place: Place) -> list[Any] | None:
        if isinstance(right, str) and right.startswith("@"):
            return self._sets.get((*place[:2], right[1:]))
        if isinstance(right, dict) and "set" in right:
            return list(right["set"])
        return right if isinstance(right, list) else [right]

    def _test(self, left: Any) -> Test:
        """How a value is compared with what *left* says of the SYN. Raises `_Absent`."""
        match left:
            case {"payload": {"protocol": str(protocol), "field": str(field)}}:
                return self._payload(protocol, field)
            case {"meta": {"key": str(key)}}:
                return self._meta(key)
            case {"ct": {"key": str(key)}}:
                if "ct" in self._syn.changed or (key == "mark" and "mark" in self._syn.changed):
                    return _unknown
                return {
                    "state": _is("new"), "status": _never, "direction": _is("original"), "mark": _is(0),
                }.get(key, _unknown)  # fmt: skip
            case {"fib": {"result": "type", "flags": ["daddr", *_]}}:
                return _is("local")
            case {"fib": {"result": "oif", "flags": ["saddr", *_]}}:
                return _is(True)  # there is a way back to the source
            case {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, mask]}:
                return lambda right: _flags(right) == {"syn"} & _flags(mask)
            case {"&": [{"meta": {"key": "mark"}} | {"ct": {"key": "mark"}}, int()]}:
                return _unknown if "mark" in self._syn.changed else _is(0)
            case {"concat": parts}:
                tests = [self._test(part) for part in parts]
                return lambda atom: _each(tests, atom)
        return _unknown

    def _payload(self, protocol: str, field: str) -> Test:
        version = {"ip": 4, "ip6": 6}.get(protocol)
        if version is None and protocol not in ("tcp", "th", "ether"):
            raise _Absent
        if version is not None and version != self._syn.version:
            raise _Absent
        match protocol, field:
            case ("tcp" | "th", "dport"):
                return self._is_port
            case ("tcp", "flags"):
                return _is("syn")
            case ("ip" | "ip6", "saddr"):
                return _is_everywhere
            case ("ip" | "ip6", "daddr"):
                return lambda atom: _may_be_ours(atom, self._syn)
            case ("ip", "protocol") | ("ip6", "nexthdr"):
                return _is("tcp", 6)
        return _unknown

    def _meta(self, key: str) -> Test:
        version, interface = self._syn.version, self._syn.interface
        match key:
            case "l4proto":
                return _is("tcp", 6)
            case "nfproto":
                return _is("ipv4", 2) if version == 4 else _is("ipv6", 10)
            case "protocol":
                return _is("ip") if version == 4 else _is("ip6")
            case "pkttype":
                return _is("host", "unicast")
            case "mark":
                return _unknown if "mark" in self._syn.changed else _is(0)
            case "iif" | "iifname":
                return lambda atom: came_in_by(interface, str(atom), "*")
        return _unknown

    def _is_port(self, atom: Any) -> Perhaps:
        match atom:
            case int():
                return atom == self._syn.port
            case {"range": [int(first), int(last)]}:
                return first <= self._syn.port <= last
        return None


_CONDITIONS = {"match", "limit", "ct count", "quota", "set", "meter"}
"""Statements after which a packet may not go on in its rule."""

_ANYTHING_ELSE = "*"
"""An element that matches what no other does."""


def _changed(kind: str, said: Any) -> set[str] | None:
    """What a statement changes about the SYN that rules ask for; None if it does not do that alone."""
    if kind == "notrack":
        return {"ct"}
    if kind != "mangle":
        return None
    match said["key"]:
        case {"meta": {"key": "mark"}} | {"ct": {"key": "mark"}}:
            return {"mark"}
        case {"meta": {"key": key}}:
            return set() if key in _HARMLESS_KEYS["meta"] else None
        case {"ct": {"key": key}}:
            return set() if key in _HARMLESS_KEYS["ct"] else None
        case {"payload": {"protocol": protocol, "field": key}}:
            return set() if key in _HARMLESS_KEYS.get(protocol, ()) else None
        case {"tcp option": {"name": "maxseg"}}:
            return set()
    return None


def _added(kind: str, said: Any, place: Place) -> set[str]:
    """The set that a statement adds the SYN's own to."""
    return (
        {_set_name(str(said.get("set", "")), place)} if kind == "set" and said.get("op") in ("add", "update") else set()
    )


def _set_name(named: str, place: Place) -> str:
    return f"@{' '.join(place[:2])} {named.removeprefix('@')}"


_DPORT = [{"payload": {"protocol": protocol, "field": "dport"}} for protocol in ("tcp", "th")]


def came_in_by(interface: str | None, named: str, wildcard: str) -> Perhaps:
    """Whether the SYN came in by what *named* says, which may end with the *wildcard*; never by loopback."""
    if named == "lo":
        return False
    if interface is None:
        return None
    return interface.startswith(named[:-1]) if named.endswith(wildcard) else interface == named


def is_ours(address: str, syn: SYN) -> Perhaps:
    """Whether *syn*, which is to a public address of this host, is to *address*, perhaps with a prefix length."""
    try:
        network = ip_network(address, strict=False)
    except ValueError:
        return None
    if network.prefixlen == 0:
        return True
    if syn.address is not None:
        return ip_address(syn.address) in network
    first = network.network_address
    return False if first.is_multicast or first.is_loopback or str(first) == "255.255.255.255" else None


def names_everybody(address: str) -> bool:
    """Whether *address*, perhaps with a prefix length, is every address."""
    return address.endswith("/0")


def _verdict(kind: str, said: Any, place: Place) -> Verdict | None:
    match kind:
        case "accept":
            return Fate.PASSED
        case "drop":
            return Fate.DROPPED
        case "reject":
            return Fate.RESET if said and said.get("type") == "tcp reset" else Fate.REJECTED
        case "return":
            return Back.RETURN
        case "jump" | "goto":
            if not isinstance(said["target"], str):
                return Unsaid.ELSEWHERE
            return To((*place[:2], said["target"]), back=kind == "jump")
        case "queue":
            return Unsaid.ELSEWHERE
        case "snat" | "masquerade":
            return Fate.PASSED
    return None


def _value(element: Any) -> Any:
    """An element of a set without its timeout, comment and counters."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _is(*values: object) -> Test:
    return lambda atom: any(atom is value if isinstance(value, bool) else atom == value for value in values)


def _never(_atom: Any) -> Perhaps:
    return False


def _unknown(_atom: Any) -> Perhaps:
    return None


def _flags(said: Any) -> set[str]:
    if isinstance(said, dict):
        said = said.get("|", [])
    return {said} if isinstance(said, str) else set(said) if isinstance(said, list) else set()


def _each(tests: list[Test], atom: Any) -> Perhaps:
    values = atom.get("concat") if isinstance(atom, dict) else None
    if values is None or len(values) != len(tests):
        return None
    return both(*(test(value) for test, value in zip(tests, values, strict=True)))


def _names_a_source(left: Any) -> bool:
    return any(left == {"payload": {"protocol": protocol, "field": "saddr"}} for protocol in ("ip", "ip6"))


def _is_everywhere(atom: Any) -> Perhaps:
    match atom:
        case {"prefix": {"len": int(length)}}:
            return length == 0
        case {"range": [str(first), str(last)]}:
            return int(ip_address(first)) == 0 and int(ip_address(last)) == 2 ** ip_address(last).max_prefixlen - 1
    return False


def _may_be_ours(atom: Any, syn: SYN) -> Perhaps:
    match atom:
        case str():
            return is_ours(atom, syn)
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return is_ours(f"{address}/{length}", syn)
    return None
