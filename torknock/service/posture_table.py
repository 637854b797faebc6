"""The nftables table that makes a port look filtered, as text. Pure."""

from __future__ import annotations

import ipaddress

from torknock.protocol.door import Door

FAMILY = "inet"


def posture_table(door: Door) -> str:
    """The name of the table that makes the port of *door* look `Posture.FILTERED`, guarded or not."""
    return f"{door.table}-posture"


def load_posture(door: Door) -> str:
    """The transaction that puts the table `posture_table` in place; `remove` takes it away."""
    return replace(posture_table(door), posture_listing(door))


def replace(table: str, listing: str) -> str:
    """The transaction after which *table* has the rules of *listing* and no others, without a moment in between."""
    return f"add table {FAMILY} {table}\nflush table {FAMILY} {table}\n{listing}"


def posture_listing(door: Door) -> str:
    """The table `posture_table` as `nft --stateless --terse list table` prints it.

    It drops in the input hook, as the firewall of a host does: what the kernel answers before that hook, such as a bad
    IP option, is answered here too. A SYN that `tproxy` has taken to the hidden listener has that listener for its
    socket, which is transparent, and so is the socket of each connection that was accepted there.
    """
    to_port = sent_to(door)
    return f"""\
table {FAMILY} {posture_table(door)} {{
	chain input {{
		type filter hook input priority filter; policy accept;
		{to_port} socket transparent 1 accept
		{to_port} drop
	}}
}}
"""


def sent_to(door: Door) -> str:
    """What matches a segment to *door*."""
    if door.everywhere:
        return f"tcp dport {door.port}"
    version = ipaddress.ip_address(door.host).version
    return f"{'ip' if version == 4 else 'ip6'} daddr {door.host} tcp dport {door.port}"
