"""iptables' rules, as `iptables-save` writes them (iptables(8), iptables-extensions(8)), read for one SYN.

`nft` shows these rules too, but not what many of their matches say.
"""

from __future__ import annotations

import shlex
from collections.abc import Container
from itertools import pairwise

from torknock.firewall.fate import SYN, Back, Chain, Fate, Perhaps, Place, Rule, To, Unsaid, Verdict, both, opposite
from torknock.firewall.nft_rules import came_in_by, is_ours, names_everybody

_PRIORITIES = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}  # linux/netfilter_ipv4.h
_HOOKS = {"PREROUTING": 0, "INPUT": 1}
_GO_ON = {"LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "NOTRACK", "TCPMSS", "TOS", "DSCP", "SET", "AUDIT", "TRACE",
          "CLASSIFY", "CHECKSUM", "HMARK", "SECMARK", "CONNSECMARK"}  # fmt: skip
"""Targets after which a packet goes on to the next rule."""

_CHANGES = {"MARK": "mark", "CONNMARK": "mark", "HMARK": "mark", "CT": "ct", "NOTRACK": "ct"}
"""What some of them change about it; see `SYN.changed`."""

_COMPLETE = {"tcp", "udp", "icmp", "icmp6", "ipv6-icmp", "sctp", "conntrack", "state", "comment", "limit", "hashlimit",
             "recent", "addrtype", "multiport", "mark", "connmark", "set", "pkttype", "connlimit", "iprange", "rt",
             "mac", "rpfilter"}  # fmt: skip
"""Matches whose options say all that they ask for."""

_TELL_NOTHING = {"--comment", "--limit", "--limit-burst", "--connlimit-mask", "--hashlimit-burst", "--hashlimit-name",
                 "--hashlimit-mode", "--hashlimit-upto", "--connlimit-upto", "--syn", "--set",
                 "--name", "--rsource", "--mask", "--seconds", "--hitcount", "--reap"}  # fmt: skip
"""Options of matches that the first SYN of a stranger always passes."""

_OF_OTHERS = {"--icmp-type", "--icmpv6-type", "--connlimit-above", "--hashlimit-above", "--rt-type", "--update",
              "--rcheck", "--remove"}  # fmt: skip
"""Options that it never passes."""


def chains(saved: str, syn: SYN, family: str) -> dict[Place, Chain]:
    """The chains in what `iptables-save`, or `ip6tables-save`, has *saved*; *family* is to tell them from others."""
    rules: dict[Place, list[Rule]] = {}
    policies: dict[Place, str] = {}
    table = ""
    for line in saved.split("\n"):  # a comment may hold what `splitlines` takes for a line's end
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, *_ = (*line[1:].split(), "", "")
            rules[family, table, name], policies[family, table, name] = [], policy
        elif line.startswith("-A "):
            _, name, *words = (*_words(line), "")
            place = (family, table, name)
            rules.setdefault(place, []).append(_rule(line, words[:-1], rules, place, syn))
    return {
        place: Chain(
            tuple(listed),
            (_HOOKS[place[2]], _PRIORITIES[place[1]]) if place[2] in _HOOKS and place[1] in _PRIORITIES else None,
            Fate.DROPPED if policies.get(place) == "DROP" else Fate.PASSED,
        )
        for place, listed in rules.items()
    }


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation without an end
        return line.split()


def _rule(line: str, words: list[str], known: Container[Place], place: Place, syn: SYN) -> Rule:
    """The rule that is saved as *line*, of which *words* say its matches and target; *known* are the chains."""
    applies: Perhaps = True
    verdict: Verdict | None = None
    changes: frozenset[str] = frozenset()
    where = f"{'iptables' if syn.version == 4 else 'ip6tables'} -t {place[1]} {line}"
    negated = False
    while words:
        option, *words = words
        if option == "!":
            negated = True
            continue
        values = []
        while words and not (words[0].startswith("-") and not words[0].lstrip("-").isdecimal()) and words[0] != "!":
            values.append(words.pop(0))
        if option in ("-j", "-g"):
            name = "".join(values[:1])
            verdict = _target(name, words, known, place, back=option == "-j")
            changes = frozenset(_changed(name, words))
            break
        held = _holds(option, values, syn)
        applies = both(applies, opposite(held) if negated else held)
        negated = False
    return Rule(applies, verdict, where, changes)


def _changed(target: str, options: list[str]) -> set[str]:
    if target == "SET":
        return {f"@{added}" for option, added in pairwise(options) if option == "--add-set"}
    return {_CHANGES[target]} if target in _CHANGES else set()


def _target(name: str, options: list[str], known: Container[Place], place: Place, back: bool) -> Verdict | None:
    match name:
        case "ACCEPT":
            return Fate.PASSED
        case "DROP":
            return Fate.DROPPED
        case "REJECT":
            return Fate.RESET if "tcp-reset" in options else Fate.REJECTED
        case "RETURN":
            return Back.RETURN
        case "DNAT" | "REDIRECT" | "NETMAP":
            return Fate.TAKEN
        case "SNAT" | "MASQUERADE":
            return Fate.PASSED
    if (*place[:2], name) in known:
        return To((*place[:2], name), back)
    return None if name in _GO_ON or not name else Unsaid.ELSEWHERE


def _holds(option: str, values: list[str], syn: SYN) -> Perhaps:
    """Whether *syn* is as *option* says."""
    value = values[0] if values else ""
    if option in _TELL_NOTHING or option in _OF_OTHERS:
        return option in _TELL_NOTHING
    match option:
        case "-m":
            return True if value in _COMPLETE else None
        case "--ctdir":
            return value == "ORIGINAL" if "ct" not in syn.changed else None
        case "-p":
            return value in ("tcp", "6", "all")
        case "-i":
            return came_in_by(syn.interface, value, "+")
        case "-s":
            return names_everybody(value)
        case "-d":
            return is_ours(value, syn)
        case "--dport" | "--dports":
            return _has_port(value, syn.port)
        case "--tcp-flags":
            return _flags(values)
        case "--ctstate" | "--state":
            return "NEW" in value.split(",") if "ct" not in syn.changed else None
        case "--ctstatus":
            return value == "NONE" if "ct" not in syn.changed else None
        case "--dst-type":
            return value == "LOCAL"
        case "--src-type":
            return value == "UNICAST"
        case "--pkt-type":
            return value == "unicast"
        case "--mark":
            return value.partition("/")[0].lower() in ("0", "0x0") if "mark" not in syn.changed else None
        case "--match-set":
            return False if values[-1:] == ["src"] and f"@{value}" not in syn.changed else None
    return None


def _has_port(listed: str, port: int) -> Perhaps:
    ranges = [item.partition(":") for item in listed.split(",")]
    if not all((first + last).isdecimal() for first, _, last in ranges):
        return None
    return any(int(first or 0) <= port <= int((last or 65535) if colon else first) for first, colon, last in ranges)


def _flags(values: list[str]) -> Perhaps:
    if len(values) != 2:
        return None
    everything = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
    mask, wanted = (
        everything if said == "ALL" else set() if said == "NONE" else set(said.split(",")) for said in values
    )
    return {"SYN"} & mask == wanted
