"""Finds the rule of address translation that takes a port to another service. Blocks.

It looks at chains of type nat at the hook prerouting, of nftables and of both kinds of iptables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torknock.kernel.blocking_program import ProgramFailed
from torknock.kernel.routes import default_interface
from torknock.privileged.gate.kernel import output
from torknock.privileged.gate.translating_iptables import of_iptables
from torknock.privileged.gate.translating_rules import Chains, RulesUnreadable, StrangersSYN, of_nft, takers
from torknock.protocol.door import PREFIX
from torknock.redact import redact

_Output = Callable[..., str]
"""`IKernel.output`."""

_RULE = re.compile(r"^\t\t(\S.*) # handle (\d+)$", re.MULTILINE)


def taken(port: int, versions: Sequence[int], address: str | None, run: _Output = output) -> str:
    """The rule that takes SYNs to *port* elsewhere, or may, without its addresses.

    *address* is this host's, None for every one. "" if there is no such rule, or the rules cannot be read.
    """
    for version in versions:
        syn = StrangersSYN(port, version, address, default_interface(version))
        for read in (_nftables, _legacy):
            with suppress(ProgramFailed, RulesUnreadable):
                for chains, base in read(syn, run):
                    if found := takers(chains, base):
                        return redact(found[0])
    return ""


def _nftables(syn: StrangersSYN, run: _Output) -> Iterator[tuple[Chains, str]]:
    """The tables of nftables that translate addresses, with the chain at the hook."""
    ours = "ip" if syn.version == 4 else "ip6"
    for item in _nft(run, "list", "chains"):
        chain = item.get("chain", {})
        if (chain.get("type"), chain.get("hook")) != ("nat", "prerouting") or chain["family"] not in ("inet", ours):
            continue
        if not chain["table"].startswith(PREFIX):
            yield _table(chain["family"], chain["table"], syn, run), chain["name"]


def _table(family: str, table: str, syn: StrangersSYN, run: _Output) -> Chains:
    listed = _nft(run, "list", "table", family, table)
    if any("xt" in statement for item in listed for statement in item.get("rule", {}).get("expr", ())):
        return of_iptables(run(f"{family}tables-nft-save", "-t", table), syn)
    written = run("nft", "--terse", "--handle", "list", "table", family, table)
    return of_nft(listed, syn, {int(handle): text for text, handle in _RULE.findall(written)})


def _legacy(syn: StrangersSYN, run: _Output) -> Iterator[tuple[Chains, str]]:
    """The table of the other iptables, of which nft does not know. Needs CAP_NET_RAW, which no service has."""
    family = "ip" if syn.version == 4 else "ip6"
    with suppress(OSError):
        if "nat" in Path(f"/proc/thread-self/net/{family}_tables_names").read_text().split():
            saved = run(f"{family}tables-legacy-save", "-t", "nat")
            yield of_iptables(saved, syn), "PREROUTING"


def _nft(run: _Output, *arguments: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(run("nft", "--json", *arguments))["nftables"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProgramFailed("nft does not write the ruleset as JSON", "apt-get install nftables") from error
