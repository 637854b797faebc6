"""Rules of address translation, as iptables-save(8) writes them, read for one SYN. Pure."""

from __future__ import annotations

import shlex

from torknock.privileged.gate.translating_rules import (
    Chains,
    Perhaps,
    Rule,
    StrangersSYN,
    all_of,
    came_in_by,
    is_everywhere,
    is_ours,
    opposite,
)


def of_iptables(saved: str, syn: StrangersSYN) -> Chains:
    """The rules of one table that iptables-save has *saved*."""
    chains: dict[str, list[Rule]] = {}
    program, table = "iptables" if syn.version == 4 else "ip6tables", ""
    for line in saved.split("\n"):  # a comment may hold what `splitlines` takes for a line's end
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            _, name, *words = (*_words(line), "")
            applies, verdict, chain = _read(words[:-1], syn)
            chains.setdefault(name, []).append(Rule(applies, verdict, chain, f"{program} -t {table} {line}"))
    return chains


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation without an end
        return line.split()


def _read(words: list[str], syn: StrangersSYN) -> tuple[Perhaps, str, str]:
    """What a rule of iptables says: see `Rule`."""
    applies: Perhaps = True
    negated = False
    while words:
        option = words.pop(0)
        if option == "!":
            negated = True
            continue
        value = words.pop(0) if words and not words[0].startswith("-") and words[0] != "!" else ""
        if option in ("-j", "-g"):
            verdict = _TARGETS.get(value, "jump" if option == "-j" else "goto")
            return applies, verdict, value
        held = _holds(option, value, syn)
        applies = all_of(applies, opposite(held) if negated else held)
        negated = False
    return applies, "", ""


_TARGETS = {
    "DNAT": "take", "REDIRECT": "take", "NETMAP": "take", "ACCEPT": "end", "DROP": "end", "RETURN": "return",
    "LOG": "", "NFLOG": "", "MARK": "", "CONNMARK": "", "TRACE": "",
}  # fmt: skip


_MODULES = {"tcp", "udp", "comment", "multiport", "addrtype", "conntrack", "state"}
"""Whose options say all that they ask for."""


def _holds(option: str, value: str, syn: StrangersSYN) -> Perhaps:
    match option:
        case "-m":
            return True if value in _MODULES else None
        case "--comment":
            return True
        case "-p":
            return value in ("tcp", "6", "all")
        case "-i":
            return came_in_by(value, syn, "+")
        case "-s":
            return is_everywhere(value)
        case "-d":
            return is_ours(value, syn)
        case "--dport" | "--dports":
            ranges = [item.partition(":") for item in value.split(",")]
            if all((first + last).isdecimal() for first, _, last in ranges):
                return any(
                    int(first or 0) <= syn.port <= int((last or 65535) if colon else first)
                    for first, colon, last in ranges
                )
        case "--dst-type":
            return value == "LOCAL"
        case "--ctstate" | "--state":
            return "NEW" in value.split(",")
    return None
