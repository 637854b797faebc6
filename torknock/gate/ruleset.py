"""The gate as nftables text: one table a protected port, its tokens, its limits (protocol.md §2.3). Pure.

What `load` gives is written as `nft --stateless --terse list table` writes it back, so that the text that was loaded
and the text that the kernel holds can be compared, and read by whoever audits the gate.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

TOKENS_AT_MOST = 1_048_576
"""Elements of the token set; admitting more fails, and the gate stays as it was."""

FAMILY = "inet"
PREFIX = "torknock-"
"""How the name of every table of ours begins."""


@dataclass(frozen=True, slots=True)
class Door:
    """A protected port, and where the SYNs that open it are taken to."""

    host: str
    """The protected address; "0.0.0.0" and "::" both stand for every address of this host, IPv4 and IPv6."""
    port: int
    hidden_ipv4: int
    """Port of the hidden listener on 127.0.0.1."""
    hidden_ipv6: int
    """Port of the hidden listener on ::1."""

    @property
    def table(self) -> str:
        """The name of the door's table, the same for every process that would guard this door."""
        return f"{PREFIX}{self.port}" if self.everywhere else f"{PREFIX}{self.host.replace(':', '.')}-{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether every address of this host is protected."""
        return ipaddress.ip_address(self.host).is_unspecified


def load(door: Door) -> str:
    """The transaction that puts *door*'s table in place, empty of tokens, instead of whatever had its name."""
    table = f"{FAMILY} {door.table}"
    return f"add table {table}\ndelete table {table}\n{listing(door)}"


def listing(door: Door) -> str:
    """The table of *door* as `nft --stateless --terse list table` prints it.

    A SYN without a token goes its way, to a port on which nothing listens, and so does one of a source that guessed too
    often; a token is spent before its SYN is taken to the hidden listener. What limits a source is a miss above 256 in
    the 10 minutes that its count lives: `limit rate over 1/day burst 256` is a count that hardly refills. Packets that
    this host only forwards are let be; that costs a routing lookup, so it is asked after what costs less.
    """
    return f"""\
table {FAMILY} {door.table} {{
	set tokens {{
		typeof tcp sequence
		size {TOKENS_AT_MOST}
		flags dynamic,timeout
	}}

{_sources("misses4", "ip saddr")}
{_sources("misses6", "ip6 saddr")}
{_sources("limited4", "ip saddr")}
{_sources("limited6", "ip6 saddr")}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		{_addressed_to(door)} jump knock
	}}

	chain knock {{
		tcp sequence != @tokens goto miss
		fib daddr type != local return
		ip saddr @limited4 return
		ip6 saddr & ffff:ffff:ffff:ffff:: == @limited6 return
		delete @tokens {{ tcp sequence }}
		meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{door.hidden_ipv4} accept
		meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{door.hidden_ipv6} accept
	}}

	chain miss {{
		ip saddr @limited4 return
		ip6 saddr & ffff:ffff:ffff:ffff:: == @limited6 return
		fib daddr type != local return
		add @misses4 {{ ip saddr {_MISSES} }} add @limited4 {{ ip saddr }}
		add @misses6 {{ {_PREFIX6} {_MISSES} }} add @limited6 {{ {_PREFIX6} }}
	}}
}}
"""


def admit(table: str, tokens: Iterable[int], seconds: int) -> str:
    """The command that makes *tokens* open the door for *seconds*; one that opens it already keeps its time."""
    elements = ", ".join(f"{token} timeout {seconds}s" for token in tokens)
    return f"add element {FAMILY} {table} tokens {{ {elements} }}\n"


def withdraw(table: str, tokens: Iterable[int]) -> str:
    """The transaction after which none of *tokens* opens the door, whether it did before or not.

    They are added first because nft refuses to delete what is not there.
    """
    elements = ", ".join(map(str, tokens))
    there = f"{FAMILY} {table} tokens {{ {elements} }}"
    return f"add element {there}\ndelete element {there}\n"


def remove(table: str) -> str:
    """The transaction after which there is no such table, whether there was one or not."""
    return f"add table {FAMILY} {table}\ndelete table {FAMILY} {table}\n"


_PREFIX6 = "ip6 saddr & ffff:ffff:ffff:ffff::"
_MISSES = "limit rate over 1/day burst 256 packets"


def _sources(name: str, address: str) -> str:
    return f"""\
	set {name} {{
		typeof {address}
		size 65536
		flags dynamic,timeout
		timeout 10m
	}}
"""


def _addressed_to(door: Door) -> str:
    syn = f"tcp dport {door.port} tcp flags syn / fin,syn,rst,ack"
    if door.everywhere:
        return syn
    version = ipaddress.ip_address(door.host).version
    return f"{'ip' if version == 4 else 'ip6'} daddr {door.host} {syn}"
