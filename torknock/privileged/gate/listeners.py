"""The hidden listeners, to which the gate takes the SYNs that it admits."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from torknock.interfaces import GateFailed
from torknock.kernel.ipv6 import NO_IPV6, has_ipv6
from torknock.kernel.socket_options import TCP_SAVE_SYN
from torknock.privileged.gate.kernel import make_transparent
from torknock.service.ruleset import HiddenPorts

MakeTransparent = Callable[[socket.socket], None]
"""`IKernel.make_transparent`."""

_BACKLOG = 1024
_BINDS = 16


def hidden_listeners(host: str, transparent: MakeTransparent = make_transparent) -> tuple[socket.socket, ...]:
    """Sockets that listen for what the gate of the door at *host* takes to them by `tproxy`. Needs CAP_NET_ADMIN.

    One is on 127.0.0.1; one on ::1, unless the kernel has no IPv6. Raises `GateFailed` if *host* needs what it has not.

    `tproxy` needs them transparent (ip(7), IP_TRANSPARENT). A process that is handed such a socket could bind it again,
    to an address that is not this host's. The kernel refuses that, because the first `bind` named the port. A socket
    that is accepted is transparent too, without that lock: `sources` drops what it could then send.
    """
    with_ipv6 = has_ipv6()
    address = ip_address(host)
    if address.version == 6 and not with_ipv6 and not address.is_unspecified:
        raise GateFailed(NO_IPV6, "torrc: ServerTransportListenAddr torknock 0.0.0.0:443")
    first = _hidden(socket.AF_INET, "127.0.0.1", transparent)
    try:
        return (first, _hidden(socket.AF_INET6, "::1", transparent)) if with_ipv6 else (first,)
    except BaseException:
        first.close()
        raise


def hidden_ports(listening: Sequence[socket.socket]) -> HiddenPorts:
    """Where the `hidden_listeners` *listening* are."""
    ports = {each.family: each.getsockname()[1] for each in listening}
    return HiddenPorts(ports[socket.AF_INET], ports.get(socket.AF_INET6))


def _hidden(family: socket.AddressFamily, host: str, transparent: MakeTransparent) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # What is accepted here is bound to the protected port, and must not keep a later gate from looking at it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        transparent(listener)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        _bind(listener, host, transparent)
        listener.listen(_BACKLOG)
        # A host may give Fast Open to every listener (net.ipv4.tcp_fastopen); data in a SYN would then show this one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 0)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind(listener: socket.socket, host: str, transparent: MakeTransparent) -> None:
    """Bind *listener* to a free port of *host* by its number, which locks the port: see `hidden_listeners`."""
    for tries_left in reversed(range(_BINDS)):
        with socket.socket(listener.family, socket.SOCK_STREAM) as probe:
            transparent(probe)  # ::1 may be no address of this host (net.ipv6.conf.lo.disable_ipv6)
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries_left:
                raise
        else:
            return
