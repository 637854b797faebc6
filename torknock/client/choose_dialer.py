"""The dialer of this process: its own with CAP_NET_ADMIN, else that of the service `torknock dial`."""

from __future__ import annotations

from torknock.client.remote_dialer import RemoteDialer
from torknock.interfaces import CannotKnock
from torknock.kernel.capability import may_administer_network
from torknock.kernel.interfaces import IReactor
from torknock.privileged.dial.repair import RepairDialer


def choose_dialer(
    reactor: IReactor, service: str, bind_v4: str | None = None, bind_v6: str | None = None
) -> RepairDialer | RemoteDialer:
    """The dialer to use; *service* is the service's socket, *bind_v4* and *bind_v6* are the addresses to dial from.

    Raises `CannotKnock` on a kernel that lets no program choose an ISN.
    """
    try:
        privileged = may_administer_network()
    except OSError as error:
        why = f"this kernel does not let torknock choose an ISN: {error.strerror}; use Linux's"
        raise CannotKnock(why, error.errno) from error
    if privileged:
        return RepairDialer(reactor, bind_v4, bind_v6)
    return RemoteDialer(reactor, service, bind_v4, bind_v6)
