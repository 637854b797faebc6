"""What keeps a user whose ports are guarded from sending TCP from an address that is not this host's, as nftables text.

`tproxy` needs a transparent listener (ip(7), IP_TRANSPARENT), and what is accepted there is transparent too: a process
that disconnects such a connection (connect(2), AF_UNSPEC) can bind it to any address. The kernel lets it; this table
drops what it would send. A table belongs to a user and outlives their gates, because sockets do. Pure.
"""

from __future__ import annotations

from torknock.protocol.door import PREFIX
from torknock.service.posture_table import FAMILY


def sources_table(uid: int) -> str:
    """The name of the table for the user *uid*."""
    return f"{PREFIX}sources-{uid}"


def sources_listing(uid: int) -> str:
    """The table for the user *uid* as `nft --stateless --terse list table` prints it.

    A socket is the user's who opened or accepted it. The kernel answers for a listener before it is accepted, so such
    an answer counts as its maker's; a connection that has lost its last descriptor has no owner, but one from a foreign
    address never stood.
    """
    return f"""\
table {FAMILY} {sources_table(uid)} {{
	chain output {{
		type filter hook output priority filter; policy accept;
		meta skuid {uid} meta l4proto tcp fib saddr type != local drop
	}}
}}
"""
