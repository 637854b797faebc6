"""Whether this process may do what needs CAP_NET_ADMIN."""

from __future__ import annotations

import errno
import socket

from torknock.kernel.socket_options import TCP_REPAIR, TCP_REPAIR_ON

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
