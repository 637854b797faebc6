"""The bridge's side: a gate in front of the public port, a channel behind it, tor behind that."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from pluggable.environment import ServerEnvironment
from pluggable.errors import MethodError
from pluggable.interfaces import IServerTransport
from pluggable.managed import main
from torknock.channel.integrity import Integrity
from torknock.channel.raw import Raw
from torknock.channel.tls import Refusal, ServerTLS
from torknock.errors import TorknockError
from torknock.gate.interfaces import DoorTaken
from torknock.gate.judge import SYN
from torknock.gate.listener import HiddenListener
from torknock.gate.nftables import NftablesGate
from torknock.gate.refresh import Refresh
from torknock.gate.ruleset import Door
from torknock.gate.spent import SpentKnocks, SpentTokens
from torknock.keyring import Keyring
from torknock.linux import NO_CAPABILITY, may_administer_network

_log = Logger()

KEYRING = "torknock"
"""The keyring's directory within tor's `pt_state`, where `ServerTransportOptions` name no other."""

_PATIENCE = 5.0
"""So long a predecessor is given to leave the door: tor starts a successor about a second after it has ended one."""


def serve(reactor: Any, environ: Mapping[str, str], now: Callable[[], float], version: str) -> NoReturn:
    """Be the transport that tor asks for in *environ*, in a *reactor* that is started for it."""
    main(
        reactor,
        environ,
        implementation="torknock",
        version=version,
        servers={"torknock": lambda environment: KnockServer(reactor, environment, now)},
    )


@implementer(IServerTransport)
class KnockServer:
    """The transport that tor's `ServerTransportPlugin torknock` is."""

    def __init__(self, reactor: Any, environment: ServerEnvironment, now: Callable[[], float]) -> None:
        self._reactor = reactor
        self._environment = environment
        self._now = now

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        """The door at *bind_address*: the public address to protect. Raises `MethodError` if an option is not ours."""
        unknown = sorted(set(options) - {"keyring"})
        if unknown:
            raise MethodError(f"ServerTransportOptions: torknock has no {', '.join(unknown)}; it knows keyring=DIR")
        keyring = Path(options.get("keyring", self._environment.state_location / KEYRING))
        if not keyring.is_absolute():
            raise MethodError("ServerTransportOptions: keyring= must be an absolute path")
        return _Door(self._reactor, bind_address[0], bind_address[1], keyring, self._now)

    def smethod_args(self) -> Mapping[str, str]:
        """Nothing: each client has a secret of its own, and none of them is published."""
        return {}


@implementer(IStreamServerEndpoint)
@define
class _Door:
    reactor: Any
    host: str
    port: int
    directory: Path
    """The keyring's."""
    now: Callable[[], float]

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return Deferred.fromCoroutine(self._guard(protocolFactory))

    async def _guard(self, factory: IProtocolFactory) -> IListeningPort:
        if not may_administer_network():
            raise MethodError(NO_CAPABILITY)
        port = self.port or _unused_port(self.host)
        if _is_served(self.host, port):
            raise MethodError(f"another program listens on port {port}; end it, or hide a port that nobody serves")
        try:
            keyring = Keyring.open(self.directory, create=True)
        except TorknockError as error:
            raise MethodError(str(error)) from error
        try:
            guarded = _Guarded(self, port, keyring, factory)
        except TorknockError as error:
            keyring.close()
            raise MethodError(str(error)) from error
        try:
            await guarded.open()
        except TorknockError as error:
            await guarded.stopListening()
            raise MethodError(str(error)) from error
        return guarded


@implementer(IListeningPort)
class _Guarded:
    """A door in use: the gate, the hidden listener behind it, and the keyring that says who may come in."""

    def __init__(self, door: _Door, port: int, keyring: Keyring, factory: IProtocolFactory) -> None:
        self._reactor = door.reactor
        self._host, self._port = door.host, port
        self._keyring = keyring
        self._factory = factory
        self._tls = ServerTLS(door.reactor, keyring.private_key, secrets.SystemRandom(), keyring.known_at, _refused)
        self._raw = Raw()
        self._listener = HiddenListener(door.reactor, port, self._welcome)
        guarded = Door(door.host, port, self._listener.hidden_ipv4, self._listener.hidden_ipv6)
        self._refresh = Refresh(
            keyring,
            SpentTokens(door.directory / f"{guarded.table}.spent"),
            SpentKnocks(door.directory / f"{guarded.table}.knocks"),
            lambda ask: NftablesGate(door.reactor, guarded, ask),
            door.reactor,
            door.now,
        )

    async def open(self) -> None:
        """Start to guard; a predecessor is waited for. Raises `TorknockError`."""
        gives_up = self._reactor.seconds() + _PATIENCE
        while True:
            try:
                await self._refresh.start()
            except DoorTaken:
                if self._reactor.seconds() > gives_up:
                    raise
                await deferLater(self._reactor, 0.25)
            else:
                return

    def startListening(self) -> None:
        """It does."""

    def stopListening(self) -> Deferred[None]:
        """Close the door; connections that came through it live on."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            await self._refresh.stop()
        finally:
            await self._listener.stop()
            self._keyring.close()

    def getHost(self) -> IPv4Address | IPv6Address:
        """The public address that is protected."""
        kind = IPv4Address if ipaddress.ip_address(self._host).version == 4 else IPv6Address
        return kind("TCP", self._host, self._port)

    def _welcome(self, syn: SYN, address: IAddress) -> IProtocol | None:
        lines = [issued.line for issued in self._refresh.whose(syn)]
        if not lines:
            return None
        proved = [line for line in lines if line.channel == "tls"]
        channel = self._tls if proved else self._raw
        covered = (proved or lines)[0].integrity
        lines = [line for line in proved or lines if line.integrity == covered]

        def upper() -> IProtocol:
            return channel.accept(lines, syn.isn, lambda _whose: self._factory.buildProtocol(address))

        if covered == 0:
            return upper()
        return Integrity(self._reactor, [line.secret for line in lines], covered, syn.isn, upper)


def _refused(why: Refusal) -> None:
    """Tell the operator: whoever has a token and no secret has held back somebody's SYN, or guessed."""
    _log.warn("a connection was let in by its token and then given nothing: {why}", why=str(why))


def _is_served(host: str, port: int) -> bool:
    """Whether something listens on *port* where SYNs for *host* would find it."""
    everywhere = ipaddress.ip_address(host).is_unspecified
    for where in ("0.0.0.0", "::") if everywhere else (host,):  # noqa: S104  it is looked at, not listened on
        version = ipaddress.ip_address(where).version
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if version == 6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((where, port))
            except OSError:
                return True
    return False


def _unused_port(host: str) -> int:
    """A port for an operator who names none: below the ephemeral ones, which outgoing connections use."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        if not _is_served(host, port):
            return port
