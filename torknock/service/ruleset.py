"""The gate as nftables text: a table of tokens for each protected port, and one that drops (protocol.md §2.3). Pure.

What is loaded is written as `nft --stateless --terse list table` writes it back, so that the text that was loaded
and the text that the kernel holds can be compared, and read in an audit.
"""

from __future__ import annotations

import enum
import ipaddress
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from torknock.protocol.door import Door, Posture
from torknock.service.posture_table import FAMILY, load_posture, posture_table, sent_to

TOKENS_AT_MOST = 1_048_576
"""Elements of the token set; admitting more fails, and the gate stays as it was."""

_ASKED, _LET_IN, _MARKS = 0x40000000, 0x20000000, 0x60000000
"""Marks of a SYN that the judge is asked about, and of one that it admits; and the bits of the mark that we use."""
_UNMARK = f"meta mark set meta mark & {_MARKS ^ 0xFFFFFFFF:#010x}"

_SYN = "tcp flags syn / fin,syn,rst,ack"
_LOOK_UP = f"{_SYN} tcp sequence @tokens jump knock"
_HERE = "fib daddr type local"
"""This costs a routing lookup, so it is asked after what costs less."""
_CLAIM = "add @claimed { tcp sequence limit rate 1/day burst 1 packets }"
"""Matches the first packet of a sequence number. A limit is counted under a lock, so it is one packet on many CPUs."""

REFUSED = "refused"
"""The counter of SYNs without a token: of each that the judge refused, or else of one in `SAMPLE`."""
SAMPLE = 64
"""To count each SYN would take longer at the protected port than at another, and time at both; chance picks them,
so that an attacker cannot choose an ISN that is not counted."""


class Judging(enum.Enum):
    """How a SYN without a token gets to the judge, which marks what it admits. The judged go on at a later priority."""

    QUEUE = "raw + 1"
    """By nftables' own statement, for kernels that have nft_queue."""
    XTABLES = "mangle + 1"
    """By the target NFQUEUE of iptables, for those that have not: see `xtables`."""


@dataclass(frozen=True, slots=True)
class HiddenPorts:
    """Where the SYNs that open a door are taken to."""

    ipv4: int
    """Port of the hidden listener on 127.0.0.1."""
    ipv6: int | None
    """Port of the hidden listener on ::1; None on a kernel without IPv6."""


def queue_number(door: Door) -> int:
    """The packet queue in which SYNs to *door* without a token wait to be judged, 0..65535."""
    return zlib.crc32(door.table.encode("ascii")) & 0xFFFF


def admitted(mark: int) -> int:
    """The mark with which a SYN that came with *mark* goes on to the hidden listener."""
    return mark & ~_MARKS | _LET_IN


def load(door: Door, hidden: HiddenPorts, judging: Judging | None = None) -> str:
    """The transaction that puts *door*'s table in place, empty of tokens, instead of whatever had its name.

    It also puts the table of its posture in place, or removes it, as `Door.posture` says.
    """
    posture = load_posture(door) if door.posture is Posture.FILTERED else remove(posture_table(door))
    return f"{posture}{remove(door.table)}{listing(door, hidden, judging)}"


def listing(door: Door, hidden: HiddenPorts, judging: Judging | None = None) -> str:
    """The table of *door* as `nft --stateless --terse list table` prints it; *judging* if there are knocks to judge.

    Every SYN is looked up first, to whatever port it goes, and what depends on the port comes after: so a SYN without a
    token takes as long to the protected port as to the one beside it. A token is claimed before its SYN goes on, which
    one SYN can do in the 15 minutes that the token may be valid; every other one with that token is a SYN without a
    token, and so is each one while the set of claims is full. Packets that this host only forwards are not touched.

    With a judge, a SYN to *door* without a token is asked about. It goes to where nothing listens unless the judge lets
    it in: the judge has refused it, is not there, or has more waiting than it can take. One with IP options goes there
    at once: the kernel may answer a bad option, and an answer that waits for the judge shows the port.
    """
    return f"""\
table {FAMILY} {door.table} {{
	counter {REFUSED} {{
	}}

	set tokens {{
		typeof tcp sequence
		size {TOKENS_AT_MOST}
		flags dynamic,timeout
	}}

	set claimed {{
		typeof tcp sequence
		size {TOKENS_AT_MOST}
		flags dynamic,timeout
		timeout 15m
	}}
{_sampled(door) if judging is None else _judged(door, judging)}
	chain knock {{
		{sent_to(door)} {_HERE} {_CLAIM} delete @tokens {{ tcp sequence }} goto admitted
	}}

	chain admitted {{
{_taken_to(hidden)}	}}
}}
"""


def rest(door: Door) -> str:
    """The transaction after which *door* looks as its posture says, though it is not guarded."""
    return remove(door.table) + (load_posture(door) if door.posture is Posture.FILTERED else "")


def _sampled(door: Door) -> str:
    return f"""
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		{_LOOK_UP}
		{_SYN} numgen random mod {SAMPLE} 0 jump sample
	}}

	chain sample {{
		{_HERE} {sent_to(door)} counter name "{REFUSED}"
	}}
"""


def _judged(door: Door, judging: Judging) -> str:
    queue = f"\t\tqueue flags bypass to {queue_number(door)}\n" if judging is Judging.QUEUE else ""
    return f"""
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		{_addressed_to(door)} {_UNMARK}
		{_LOOK_UP}
		{_addressed_to(door)} {_HERE} jump ask
	}}

	chain ask {{
		ip hdrlength > 5 counter name "{REFUSED}" return
		meta mark set meta mark | {_ASKED:#010x}
{queue}	}}

	chain judged {{
		type filter hook prerouting priority {judging.value}; policy accept;
		{_addressed_to(door)} meta mark & {_MARKS:#010x} != 0x00000000 jump verdict
	}}

	chain verdict {{
		meta mark & {_MARKS:#010x} != {_LET_IN:#010x} goto refused
		{_UNMARK}
		goto admitted
	}}

	chain refused {{
		{_UNMARK}
		counter name "{REFUSED}"
	}}
"""


def xtables(door: Door) -> str:
    """The rule of `Judging.XTABLES`, for the table mangle, as iptables-save writes it behind `-A`.

    It goes to iptables, ip6tables or both (`Door.versions`), and queues what the table of *door* has marked.
    """
    to = "" if door.everywhere else f"-d {door.host}/{ipaddress.ip_address(door.host).max_prefixlen} "
    return (
        f"PREROUTING {to}-p tcp -m tcp --dport {door.port} -m mark --mark {_ASKED:#x}/{_MARKS:#x}"
        f" -m comment --comment {door.table} -j NFQUEUE --queue-num {queue_number(door)} --queue-bypass"
    )


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


def _taken_to(hidden: HiddenPorts) -> str:
    taken = f"\t\tmeta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{hidden.ipv4} accept\n"
    if hidden.ipv6 is not None:
        taken += f"\t\tmeta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{hidden.ipv6} accept\n"
    return taken


def _addressed_to(door: Door) -> str:
    """What matches a SYN to *door*."""
    return f"{sent_to(door)} {_SYN}"
