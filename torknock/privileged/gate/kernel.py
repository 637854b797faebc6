"""What a gate has of the kernel and of this host's programs, in one place: with a twin it is tested without root."""

from __future__ import annotations

import socket
from typing import Protocol

from torknock.kernel import netlink
from torknock.kernel.blocking_program import output_of
from torknock.kernel.interfaces import IReactor
from torknock.kernel.netlink import INetlink
from torknock.kernel.program import command
from torknock.kernel.socket_options import IPV6_TRANSPARENT


class IKernel(Protocol):
    """nftables, netlink and transparent sockets of a network namespace: `Kernel`, or a twin in memory."""

    @property
    def reactor(self) -> IReactor:
        """Time, threads and descriptors."""

    async def run(self, program: str, arguments: list[str], stdin: bytes = b"") -> str:
        """What *program*, `nft` or one of iptables', writes. Raises `GateFailed`, as `command` does."""

    def output(self, program: str, *arguments: str) -> str:
        """As `run`, for a thread. Raises `ProgramFailed`."""

    def connect(self) -> INetlink:
        """A socket that speaks to netfilter. Raises `OSError`."""

    def make_transparent(self, made: socket.socket) -> None:
        """Let *made*, a TCP socket, take connections for any address (ip(7), IP_TRANSPARENT). Raises `OSError`."""


def output(program: str, *arguments: str) -> str:
    """See `IKernel.output`. Blocks."""
    return output_of(program, *arguments, package=_package(program))


def make_transparent(made: socket.socket) -> None:
    """See `IKernel.make_transparent`."""
    if made.family == socket.AF_INET:
        made.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


class Kernel:
    """That of this process. All but `reactor` needs CAP_NET_ADMIN."""

    def __init__(self, reactor: IReactor) -> None:
        self.reactor = reactor

    async def run(self, program: str, arguments: list[str], stdin: bytes = b"") -> str:
        """See `IKernel.run`."""
        return await command(self.reactor, program, arguments, stdin, package=_package(program))

    def output(self, program: str, *arguments: str) -> str:
        """See `IKernel.output`."""
        return output(program, *arguments)

    def connect(self) -> INetlink:
        """See `IKernel.connect`."""
        return netlink.connect()

    def make_transparent(self, made: socket.socket) -> None:
        """See `IKernel.make_transparent`."""
        make_transparent(made)


def _package(program: str) -> str:
    return "nftables" if program == "nft" else "iptables"
