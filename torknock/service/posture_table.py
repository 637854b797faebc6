"""The nftables table that makes a port look filtered, as text. Pure."""

from __future__ import annotations

import ipaddress

from torknock.protocol.door import table_name

FAMILY = "inet"



def posture_table(host: str, port: int) -> str:
    """The name of the table that makes *port* at *host* look `Posture.FILTERED`, with or without a door there."""
    return f"{table_name(host, port)}-posture"



def load_posture(host: str, port: int) -> str:
    """The transaction that puts the table `posture_table` in place; `remove` takes it away."""
    return replace(posture_table(host, port), posture_listing(host, port))



def replace(table: str, listing: str) -> str:
    """The transaction after which *table* has the rules of *listing* and no others, without a moment in between."""
    return f"add table {FAMILY} {table}\nflush table {FAMILY} {table}\n{listing}"



def posture_listing(host: str, port: int) -> str:
    """The table `posture_table` as `nft --stateless --terse list table` prints it.

    It drops in the input hook, as the firewall of a host does: what the kernel answers before that hook, such as a bad
    IP option, is answered here too. A SYN that `tproxy` has taken to the hidden listener has that listener for its
    socket, which is transparent, and so is the socket of each connection that was accepted there.
    """
    to_port = sent_to(host, port)
    return f"""\
table {FAMILY} {posture_table(host, port)} {{
	chain input {{
		type filter hook input priority filter; policy accept;
		{to_port} socket transparent 1 accept
		{to_port} drop
	}}
}}
"""



def sent_to(host: str, port: int) -> str:
    """What matches a segment to *port* at *host*."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return f"tcp dport {port}"
    return f"{'ip' if address.version == 4 else 'ip6'} daddr {host} tcp dport {port}"
