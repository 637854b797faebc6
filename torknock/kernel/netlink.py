"""Messages of netlink's netfilter family: written, read, sent (netlink(7), linux/netfilter/nfnetlink.h).

Each message is a header, `struct nlmsghdr` and `struct nfgenmsg`, and attributes, `struct nlattr`, which can be nested.
What is read is never trusted to be whole: a length that is wrong ends what is found.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300  # NLM_F_*, linux/netlink.h

_NETLINK_NETFILTER = 12  # linux/netlink.h
_DUMP_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR, linux/netlink.h
_ERROR, _DONE = 2, 3  # NLMSG_*, linux/netlink.h
_NESTED = 0x8000  # NLA_F_NESTED, linux/netlink.h
_HEADER = struct.Struct("=IHHIIBBH")
_SIZE_AND_KIND = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_RECEIVED_AT_ONCE = 1 << 16
_ANSWERS_WITHIN = 1.0
"""Seconds. The kernel answers at once."""


class INetlink(Protocol):
    """What is used of a netlink socket: `socket.socket`, or `torknock.kernel.twins.MemoryNetlink`."""

    def send(self, octets: bytes, /) -> int:
        """Give the kernel a message."""

    def recv(self, size: int, /) -> bytes:
        """The kernel's next messages."""

    def settimeout(self, seconds: float | None, /) -> None:
        """How long `recv` waits."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option of the socket."""

    def fileno(self) -> int:
        """Its descriptor; -1 once it is closed."""

    def close(self) -> None:
        """Let go of it."""


Connect = Callable[[], INetlink]
"""Opens a netlink socket. Raises `OSError`."""


def connect() -> INetlink:
    """A socket that speaks to the kernel's netfilter. Raises `OSError`."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    netlink.settimeout(_ANSWERS_WITHIN)
    return netlink


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was received."""

    kind: int
    interrupted: bool
    """Whether what is listed was changed meanwhile."""
    body: bytes
    """The octets behind both headers: attributes."""
    code: int | None = None
    """The number of an error, 0 for none; None if this is no acknowledgement and no end of a list."""


def message(kind: int, body: bytes, *, flags: int = REQUEST, family: int = 0, resource: int = 0) -> bytes:
    """A message of *kind* with the attributes *body*; *resource* is the number of a packet queue."""
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, kind, flags, 0, 0, family, 0, socket.htons(resource)) + body


def messages(octets: bytes) -> Iterator[Message]:
    """The whole messages in *octets*, which `recv` gave."""
    at = 0
    while at + 16 <= len(octets):
        size, kind, flags = struct.unpack_from("=IHH", octets, at)
        end = min(at + size, len(octets))
        code = None
        if kind in (_ERROR, _DONE):
            code = -_CODE.unpack_from(octets, at + 16)[0] if end >= at + 20 else 0
        if code is not None or end >= at + _HEADER.size:
            yield Message(kind, bool(flags & _DUMP_INTERRUPTED), octets[at + _HEADER.size : end], code)
        at += max(size + 3 & ~3, 16)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded to a multiple of four octets."""
    return _SIZE_AND_KIND.pack(_SIZE_AND_KIND.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute in *octets*, in order; the mark of nested ones is taken off."""
    at = 0
    while at + _SIZE_AND_KIND.size <= len(octets):
        size, kind = _SIZE_AND_KIND.unpack_from(octets, at)
        yield kind & ~_NESTED, octets[at + _SIZE_AND_KIND.size : at + size]
        at += max(size + 3 & ~3, _SIZE_AND_KIND.size)


def ask(netlink: INetlink, question: bytes) -> Message:
    """The kernel's first answer to *question*. Raises `OSError`, also if that is an error."""
    netlink.send(question)
    for answer in messages(netlink.recv(_RECEIVED_AT_ONCE)):
        _check(answer)
        return answer
    raise OSError("the kernel's answer is no netlink message")


def tell(netlink: INetlink, order: bytes) -> None:
    """Send *order*, which asks for an acknowledgement, and wait for it. Raises `OSError` if the kernel refuses."""
    netlink.send(order)
    while True:
        for answer in messages(netlink.recv(_RECEIVED_AT_ONCE)):
            if answer.kind == _ERROR:
                return _check(answer)


def dump(netlink: INetlink, question: bytes) -> Iterator[bytes]:
    """The attributes of each message of the list that *question* asks for.

    Raises `OSError`, which is an `InterruptedError` if the list is changed meanwhile.
    """
    netlink.send(question)
    while True:
        for answer in messages(netlink.recv(_RECEIVED_AT_ONCE)):
            _check(answer)
            if answer.interrupted:
                raise InterruptedError("nftables was changed while it was read")
            if answer.kind == _DONE:
                return
            yield answer.body


def _check(answer: Message) -> None:
    if answer.code:
        raise OSError(answer.code, os.strerror(answer.code))
