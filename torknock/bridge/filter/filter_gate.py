"""A gate without any privilege: two listening sockets on the public port, one open to tokens and one deaf.

Both are of one SO_REUSEPORT group, and a program (`bpf`) chooses: a SYN with a token goes to the open
socket, all else to the deaf one, which drops each segment that has passed a router (IP_MINTTL of 255, RFC 5082) and
each that lacks the TCP-MD5 signature of a key that was thrown away (RFC 2385), both without an answer. A filter on the
socket itself (SO_ATTACH_FILTER) would be shorter, but newer kernels give it to CAP_NET_ADMIN only.

Limits: when the transport does not run, the port answers RST as any closed one; a token is spent when its connection is
accepted, not in the packet path, so that two copies of a SYN which arrive together both complete a handshake, of which
the second is reset once it is accepted; knocks are not judged; where the kernel has no TCP-MD5, who sends from the same
link with a TTL of 255 is answered.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Self

from attrs import frozen
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from torknock.bridge.accept import Listener
from torknock.bridge.filter.bpf import TOKENS_AT_MOST, assembled, program
from torknock.interfaces import DoorTaken, GateFailed, IGate
from torknock.kernel.interfaces import IReactor
from torknock.kernel.ipv6 import NO_IPV6, has_ipv6
from torknock.kernel.proc import is_served
from torknock.kernel.socket_options import (
    IP_MINTTL,
    IPV6_MINHOPCOUNT,
    SK_MEMINFO_DROPS,
    SO_ATTACH_REUSEPORT_CBPF,
    SO_MEMINFO,
    TCP_MD5SIG_EXT,
    TCP_MD5SIG_FLAG_PREFIX,
    TCP_SAVE_SYN,
)
from torknock.protocol.door import Door
from torknock.protocol.syn import SYN
from torknock.protocol.wanted import Wanted
from torknock.service.claim import claim

_log = Logger()

_BACKLOG = 1024
_EVERYWHERE = {4: "0.0.0.0", 6: "::"}  # noqa: S104  what is hidden is every address
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@implementer(IGate)
class FilterGate:
    """Listens at *door* for *listener*, and lets tokens through. *reactor* times them.

    The `claim` on the door is made in the directory *claims*, for processes that would listen there at the same moment.
    """

    def __init__(self, reactor: IReactor, door: Door, listener: Listener, claims: Path) -> None:
        self._reactor, self._door, self._listener, self._claims = reactor, door, listener, claims
        self._claim: int | None = None
        self._pairs: list[_Pair] = []
        self._tokens: dict[int, float] = {}
        """Token -> when it runs out."""
        self._used: set[int] = set()
        """Tokens that opened a connection here and are still wanted: their spender has not come to them."""
        self._loaded: set[int] | None = None
        """The tokens in the kernel's program; None if that is not known."""
        self._runs_out: IDelayedCall | None = None

    def apply(self, wanted: Wanted) -> Deferred[None]:
        """See `IGate.apply`. Fails with `DoorTaken` if another program listens there; no SYN is asked about.

        Fails if there are more than `TOKENS_AT_MOST` tokens.
        """
        return execute(self._apply, wanted)

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`. Every segment that was dropped is counted, since this process began to listen."""
        return execute(lambda: sum(_drops(pair.deaf) for pair in self._pairs))

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""
        return succeed(None if self._loaded is None else len(self._loaded))

    def close(self) -> Deferred[None]:
        """See `IGate.close`. The port stays silent, and taken, for as long as this process runs."""
        self._tokens.clear()
        return execute(self._sift)

    def _listen(self) -> None:
        if self._claim is None:
            self._claim = claim(self._door, self._claims)
        taken = f"another program listens on port {self._door.port}; end it, or hide a port that no program serves"
        if is_served(self._door.host, self._door.port):  # one of the same user would become one of the group
            raise DoorTaken(taken)
        try:
            for version in self._door.versions(has_ipv6()):
                self._pairs.append(_Pair.listening(self._door, version))
        except OSError as error:
            while self._pairs:
                self._pairs.pop().close()
            if error.errno == errno.EADDRINUSE:
                raise DoorTaken(taken) from error
            raise _why(error, self._door.port) from error
        if not all(pair.signed for pair in self._pairs):
            _log.warn(
                "this kernel has no TCP-MD5 (CONFIG_TCP_MD5SIG): without privilege, who sends from the same link with "
                "a TTL of 255 sees port {port}",
                port=self._door.port,
            )
        self._listener.adopt([pair.open.dup() for pair in self._pairs], self._spent)

    def _apply(self, wanted: Wanted) -> None:
        now = self._reactor.seconds()
        tokens = {token: now + page.seconds for page in wanted.pages for token in page.tokens}
        if len(tokens) > TOKENS_AT_MOST:
            raise GateFailed(
                f"without privilege a port has at most {TOKENS_AT_MOST} tokens, and here are {len(tokens)}",
                "revoke lines, make them with a smaller --n, or enable the service torknock-gate.socket",
            )
        if not self._pairs:
            self._listen()
        self._used &= tokens.keys()
        self._tokens = {token: until for token, until in tokens.items() if token not in self._used}
        self._sift()

    def _spent(self, syn: SYN) -> None:
        """A connection was accepted."""
        if self._tokens.pop(syn.isn, None) is not None:
            self._used.add(syn.isn)
            self._sift()

    def _sift(self) -> None:
        """Have the open sockets hear what is admitted now, and nothing else, without a moment in between."""
        if self._runs_out is not None and self._runs_out.active():
            self._runs_out.cancel()
        now = self._reactor.seconds()
        self._tokens = {token: until for token, until in self._tokens.items() if until > now}
        if self._loaded != self._tokens.keys():
            self._load()
        if self._tokens:
            self._runs_out = self._reactor.callLater(min(self._tokens.values()) - now, self._sift)

    def _load(self) -> None:
        self._loaded = None
        try:
            for pair in self._pairs:
                _choose(pair.deaf, self._tokens, pair.version)
        except OSError as error:
            raise GateFailed(
                f"the kernel takes no program of {len(self._tokens)} tokens: {error.strerror}",
                "raise the sysctl net.core.optmem_max, or have fewer lines",
            ) from error
        self._loaded = set(self._tokens)


@frozen
class _Pair:
    """The two sockets of one IP version."""

    version: int
    deaf: socket.socket
    open: socket.socket
    signed: bool
    """Whether the deaf one wants a signature."""

    @classmethod
    def listening(cls, door: Door, version: int) -> Self:
        """A pair that hears nothing yet. Raises `OSError`."""
        deaf = _bound(door, version)
        try:
            if version == 4:
                deaf.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
            else:
                deaf.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255)
            signed = _wants_signature(deaf)
            _choose(deaf, (), version)
            deaf.listen(_BACKLOG)  # the first of the group has index 0, `filter.DEAF`
            opened = _bound(door, version)
        except BaseException:
            deaf.close()
            raise
        pair = cls(version, deaf, opened, signed)
        try:
            opened.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
            opened.listen(_BACKLOG)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 0)  # also where every listener has it
        except BaseException:
            pair.close()
            raise
        return pair

    def close(self) -> None:
        """Give the port up; the open socket goes first, so that nothing reaches it."""
        self.open.close()
        self.deaf.close()


def _bound(door: Door, version: int) -> socket.socket:
    made = socket.socket(_FAMILY[version], socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((_EVERYWHERE[version] if door.everywhere else door.host, door.port))
    except BaseException:
        made.close()
        raise
    return made


def _wants_signature(deaf: socket.socket) -> bool:
    """Have *deaf* drop what is not signed with a key that is forgotten here; false if the kernel cannot.

    struct tcp_md5sig (linux/tcp.h): for every address of the family, by a prefix of no bits.
    """
    key = os.urandom(80)
    wanted = struct.pack("=H126xBBHi80s", deaf.family, TCP_MD5SIG_FLAG_PREFIX, 0, len(key), 0, key)
    try:
        deaf.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG_EXT, wanted)
    except OSError:
        return False
    return True


def _choose(sock: socket.socket, tokens: Collection[int], version: int) -> None:
    """Give the group of *sock* the program for *tokens*, in the place of the one it has (linux/filter.h)."""
    octets = assembled(program(tokens, version))
    kept = ctypes.create_string_buffer(octets, len(octets))
    fprog = struct.pack("HP", len(octets) // 8, ctypes.addressof(kept))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, fprog)


def _drops(sock: socket.socket) -> int:
    numbers = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    return int(numbers[SK_MEMINFO_DROPS])


def _why(error: OSError, port: int) -> GateFailed:
    if error.errno in (errno.EACCES, errno.EPERM):
        return GateFailed(
            f"port {port} cannot be had without privilege",
            "as root: systemctl enable --now torknock-gate.socket, or choose a port above 1023",
        )
    if error.errno == errno.EAFNOSUPPORT:
        return GateFailed(NO_IPV6, f"torrc: ServerTransportListenAddr torknock 0.0.0.0:{port}")
    return GateFailed(f"port {port} cannot be listened on: {error.strerror}")
