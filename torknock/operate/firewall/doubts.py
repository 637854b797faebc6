"""Which rules depend on what a copy of the rules does not have, such as a queue's program or a set's content. Pure.

Only what is listed here is understood. A copy of the rules does exactly what the host does with it: it depends on
nothing but the SYN's addresses, port, flags and interface, and on state that a stranger's first SYN finds empty.
A rule that has anything else is in doubt for the SYNs that meet all its other conditions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STATEMENTS = {
    "match", "vmap", "limit", "ct count", "set", "meter", "counter", "log", "comment", "accept", "drop", "continue",
    "return", "jump", "goto", "reject", "dnat", "redirect", "snat", "masquerade", "notrack", "mangle", "ct helper",
    "ct timeout", "ct expectation", "secmark", "last", "synproxy",
}  # fmt: skip
_FIELDS: Mapping[str, set[str]] = {
    "tcp": {"dport", "flags"}, "th": {"dport"},
    "ip": {"saddr", "daddr", "protocol", "version"}, "ip6": {"saddr", "daddr", "nexthdr", "version"},
}  # fmt: skip
"""Those of a SYN that are alike in all of a client's; others (ttl, length, source port) differ from host to host."""

_OTHER_PROTOCOLS = {"udp", "icmp", "icmpv6", "igmp", "sctp", "dccp", "esp", "ah", "comp", "udplite", "arp"}
_KEYS: Mapping[str, set[str]] = {
    "meta": {"l4proto", "nfproto", "protocol", "pkttype", "mark", "iif", "iifname", "oif", "oifname", "priority",
             "nftrace"},
    "ct": {"state", "status", "direction", "mark", "l3proto", "protocol", "proto-dst", "label", "helper", "zone"},
}  # fmt: skip
_COMPOUND = {"set", "range", "concat", "|", "&", "^", "<<", ">>"}
_NO_CONDITION = {"counter", "log", "comment"}

_MODULES = {"tcp", "udp", "icmp", "icmp6", "sctp", "conntrack", "state", "comment", "limit", "hashlimit", "recent",
            "addrtype", "multiport", "mark", "connmark", "pkttype", "connlimit", "iprange", "rpfilter"}  # fmt: skip
_OF_RULES = {"-p", "-i", "-o", "-s", "-d"}
_OPTIONS = {
    "--dport", "--dports", "--syn", "--tcp-flags", "--ctstate", "--state", "--ctstatus", "--ctdir", "--dst-type",
    "--src-type", "--limit-iface-in", "--pkt-type", "--mark", "--icmp-type", "--icmpv6-type", "--limit",
    "--limit-burst", "--connlimit-above", "--connlimit-upto", "--connlimit-mask", "--connlimit-saddr",
    "--connlimit-daddr", "--hashlimit-above", "--hashlimit-upto", "--hashlimit-burst", "--hashlimit-name",
    "--hashlimit-mode", "--hashlimit-htable-size", "--hashlimit-htable-max", "--hashlimit-htable-expire",
    "--hashlimit-htable-gcinterval", "--hashlimit-srcmask", "--hashlimit-dstmask", "--set", "--rcheck", "--update",
    "--remove", "--name", "--rsource", "--rdest", "--rttl", "--reap", "--mask", "--seconds", "--hitcount",
    "--src-range", "--dst-range", "--loose", "--validmark", "--accept-local", "--invert",
}  # fmt: skip
_TARGETS = {
    "ACCEPT", "DROP", "REJECT", "RETURN", "DNAT", "REDIRECT", "NETMAP", "SNAT", "MASQUERADE", "LOG", "NFLOG", "ULOG",
    "MARK", "CONNMARK", "CT", "NOTRACK", "TCPMSS", "TOS", "DSCP", "AUDIT", "TRACE", "CLASSIFY", "CHECKSUM",
    "SECMARK", "CONNSECMARK", "SYNPROXY",
}  # fmt: skip
_NOT_ON_THE_WAY = {"OUTPUT", "FORWARD", "POSTROUTING"}

MARK = "torknock-doubt-"
"""How the comment of a rule begins that counts the SYNs for which another is in doubt; a number follows."""


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A rule of nftables that is in doubt."""

    place: tuple[str, str, str]
    """Its family, table and chain."""
    handle: int
    conditions: list[dict[str, Any]]
    """What is understood of what it asks for, before it does anything."""


@dataclass(frozen=True, slots=True)
class SavedRules:
    """What iptables-save wrote, with rules that count in the place of those that are in *doubts*."""

    text: str
    doubts: list[str]
    """Each as the command that would make it; the index is its number behind `MARK`."""


def doubtful(listed: list[dict[str, Any]]) -> list[Doubtful]:
    """The rules in doubt among *listed*, the ruleset of `nft --json` (libnftables-json(5)), on a SYN's way in."""
    elsewhere = {
        (chain["family"], chain["table"], chain["name"])
        for item in listed
        if (chain := item.get("chain")) and chain.get("hook") in {"forward", "output", "postrouting", "egress"}
    }
    found = []
    for rule in (item["rule"] for item in listed if "rule" in item):
        place = (rule["family"], rule["table"], rule["chain"])
        if place not in elsewhere and not all(map(_is_statement_understood, rule["expr"])):
            found.append(Doubtful(place, rule["handle"], _conditions(rule["expr"])))
    return found


def _conditions(statements: list[Any]) -> list[dict[str, Any]]:
    kept = []
    for statement in statements:
        understood = _is_statement_understood(statement)
        if "match" in statement and understood:
            kept.append(statement)
        elif "match" not in statement and not _NO_CONDITION & set(statement):
            break
    return kept


def _is_statement_understood(statement: Any) -> bool:
    if not isinstance(statement, dict) or len(statement) != 1:
        return False
    [(kind, operand)] = statement.items()
    if kind not in _STATEMENTS:
        return False
    match kind, operand:
        case ("match", {"left": left, "right": right}):
            return _is_understood(left) and _is_understood(right)
        case ("vmap", {"key": key}):
            return _is_understood(key)
        case ("dnat" | "redirect", dict()):
            return all(_is_understood(operand[name]) for name in ("addr", "port") if name in operand)
        case ("mangle", {"value": value}):
            return _is_understood(value)
        case ("set" | "meter", dict()):
            inner = operand.get("stmt", [])
            return all(map(_is_statement_understood, [inner] if isinstance(inner, dict) else inner))
        case ("match" | "vmap" | "mangle" | "set" | "meter", _):
            return False
    return True


def _is_understood(operand: Any) -> bool:
    """Whether an expression of nftables has the same value here as for any stranger's SYN."""
    match operand:
        case str() | int():
            return True
        case list():
            return all(map(_is_understood, operand))
        case {"payload": {"protocol": str(protocol), "field": str(field)}}:
            return protocol in _OTHER_PROTOCOLS or field in _FIELDS.get(protocol, ())
        case {"meta": {"key": str(key)}}:
            return key in _KEYS["meta"]
        case {"ct": {"key": str(key)}}:
            return key in _KEYS["ct"]
        case {"fib": {"result": "type" | "oif" | "oifname"}} | {"prefix": _}:
            return True
        case {"elem": {"val": value}}:
            return _is_understood(value)
        case {"map": {"key": key, "data": data}}:
            return _is_understood(key) and _is_understood(data)
    return isinstance(operand, dict) and set(operand) <= _COMPOUND and all(map(_is_understood, operand.values()))


def counting(saved: str, program: str) -> SavedRules:
    """*saved* by iptables-save(8), with the rules that are in doubt replaced; *program* is named in their texts."""
    chains = {line[1:].split()[0] for line in saved.split("\n") if line.startswith(":") and line[1:].split()}
    text, doubts, table = [], list[str](), ""
    for line in saved.split("\n"):  # a comment may hold what `splitlines` takes for a line's end
        if line.startswith("*"):
            table = line[1:]
        if line.startswith("-A "):
            _, chain, *words = (*_words(line), "")
            conditions, understood = _read(words[:-1], chains)
            if not understood:
                if chain not in _NOT_ON_THE_WAY:
                    words = ["-A", chain, *conditions, "-m", "comment", "--comment", f"{MARK}{len(doubts)}"]
                    text.append(" ".join(map(_quoted, words)))
                    doubts.append(f"{program} -t {table} {line}")
                continue
        text.append(line)
    return SavedRules("\n".join(text), doubts)


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[!\w./:,+%-]+", word) else '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation without an end
        return line.split()


def _read(words: list[str], chains: set[str]) -> tuple[list[str], bool]:
    """The conditions of a rule of iptables that are understood, but for its comment, and whether all of it is."""
    conditions: list[str] = []
    everything = understood_module = True
    while words:
        option = [words.pop(0)]
        if option == ["!"] and words:
            option.append(words.pop(0))
        values = []
        while words and words[0] != "!" and not (words[0].startswith("-") and not words[0].lstrip("-").isdecimal()):
            values.append(words.pop(0))
        name = option[-1]
        if name in ("-j", "-g"):
            return conditions, everything and values[:1] != [] and values[0] in _TARGETS | chains
        if name == "-m":
            understood_module = values[:1] != [] and values[0] in _MODULES
        if name in _OF_RULES or (understood_module and name in {*_OPTIONS, "-m"}):
            conditions += [*option, *values] if values != ["comment"] else []
        elif not (understood_module and name == "--comment"):
            everything = False
    return conditions, everything
