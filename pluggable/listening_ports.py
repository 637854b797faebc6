"""The TCP ports on which one user's programs listen, from the kernel's table (proc(5), /proc/net/tcp)."""

from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTEN = "0A"


def listening_ports(host: str, uid: int, table: str | None = None) -> dict[int, int]:
    """The ports of *host*, an IP literal, on which sockets of *uid* listen, by the inodes of the sockets.

    *table* is the kernel's table for the IP version of *host*; without it, it is read, and empty if it cannot be read.
    """
    address = ip_address(host)
    if table is None:
        try:
            table = Path("/proc/net/tcp" if address.version == 4 else "/proc/net/tcp6").read_text("ascii")
        except OSError:
            return {}
    local_address = _in_hexadecimal(address)
    ports = {}
    for line in table.splitlines()[1:]:
        words = line.split()
        host_here, _, port = words[1].partition(":")
        if words[3] == _LISTEN and host_here == local_address and int(words[7]) == uid:
            ports[int(words[9])] = int(port, 16)
    return ports


def _in_hexadecimal(address: IPv4Address | IPv6Address) -> str:
    """*address* as the kernel prints it: words of 32 bits, each a number of this machine's byte order."""
    octets = socket.inet_pton(socket.AF_INET if address.version == 4 else socket.AF_INET6, str(address))
    words = [octets[at : at + 4] for at in range(0, len(octets), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
