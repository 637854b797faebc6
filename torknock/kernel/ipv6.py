"""Whether this kernel has IPv6."""

from __future__ import annotations

import errno
import socket

NO_IPV6 = "this kernel has no IPv6"


def has_ipv6() -> bool:
    """Whether the kernel has IPv6. Without it (`ipv6.disable=1`) there are no such sockets, nor the files of /proc."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise
    return True
