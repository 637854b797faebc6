"""Numbers of the Linux kernel that Python's `socket` lacks, and whether this process may use them."""

from __future__ import annotations

import errno
import socket

TCP_REPAIR = 19  # linux/tcp.h
TCP_REPAIR_QUEUE = 20  # linux/tcp.h
TCP_QUEUE_SEQ = 21  # linux/tcp.h
TCP_TIMESTAMP = 24  # linux/tcp.h
TCP_SAVE_SYN = 27  # linux/tcp.h
TCP_SAVED_SYN = 28  # linux/tcp.h
TCP_FASTOPEN_CONNECT = 30  # linux/tcp.h
TCP_FASTOPEN_NO_COOKIE = 34  # linux/tcp.h
TCP_SEND_QUEUE = 2  # linux/tcp.h
TCP_REPAIR_ON = 1  # linux/tcp.h
TCP_REPAIR_OFF_NO_WP = -1  # linux/tcp.h
IPV6_TRANSPARENT = 75  # linux/in6.h

NO_CAPABILITY = (
    "this process lacks CAP_NET_ADMIN in its network namespace; start it as root, or in a container with NET_ADMIN"
)


def may_administer_network() -> bool:
    """Whether this process has CAP_NET_ADMIN where it counts: in the user namespace of its network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                return False
            raise
    return True
