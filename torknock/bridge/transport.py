"""The bridge's side, as tor sees it: its options, and a door at the address that it names."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, cast

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from pluggable.arrivals import ORPortFactory
from pluggable.environment import ServerEnvironment
from pluggable.errors import MethodError
from pluggable.interfaces import IServerTransport
from pluggable.managed import main
from torknock.bridge.calendar import ClockUnsure, assert_sure
from torknock.bridge.ledger import SpentUnusable
from torknock.bridge.metrics import parse_metrics
from torknock.bridge.reopening import ReopeningDoor
from torknock.bridge.running import BridgeOptions, Program, RunningBridge, address, in_thread, run_bridge
from torknock.errors import TorknockError
from torknock.kernel.descriptor_limit import OF_A_CLIENT, of_transport
from torknock.kernel.interfaces import IReactor
from torknock.kernel.places import keyring_of_state
from torknock.kernel.proc import is_served
from torknock.kernel.wall_clock import is_clock_synchronized
from torknock.keyring.file import KeyringUnreadable
from torknock.keyring.lines import Keyring
from torknock.protocol.door import Door, Posture

_log = Logger()

_OPTIONS = {
    "keyring": "keyring=DIR",
    "metrics": "metrics=127.0.0.1:PORT or metrics=/PATH",
    "site": "site=DIR",
    "posture": f"posture={Posture.listed()}",
}

_SITE_AT_MOST = 90
"""Octets of a directory in which Unix sockets can be (unix(7))."""


def serve(
    reactor: IReactor, environ: Mapping[str, str], now: Callable[[], float], version: str, service: str, files: int
) -> NoReturn:
    """Be the transport that tor asks for in *environ*, in a *reactor* that is started for it.

    *service* is the socket of `torknock gate`, for a process without CAP_NET_ADMIN; *files* may be open at once.
    """
    program = Program(version, of_transport(files, OF_A_CLIENT), service)
    main(
        reactor,
        environ,
        implementation="torknock",
        version=version,
        servers={"torknock": lambda environment: KnockServer(reactor, environment, now, program)},
    )


@implementer(IServerTransport)
class KnockServer:
    """The transport that tor's `ServerTransportPlugin torknock` is."""

    def __init__(
        self, reactor: IReactor, environment: ServerEnvironment, now: Callable[[], float], program: Program
    ) -> None:
        self._reactor = reactor
        self._environment = environment
        self._now = now
        self._program = program

    def endpoint(self, bind_address: tuple[str, int], options: Mapping[str, str]) -> IStreamServerEndpoint:
        """The door at *bind_address*: the public address to protect. Raises `MethodError` if an option is not ours."""
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            known = ", ".join(_OPTIONS.values())
            raise MethodError(f"ServerTransportOptions: torknock has no {', '.join(unknown)}; it knows {known}")
        keyring = Path(options.get("keyring", keyring_of_state(self._environment.state_location)))
        if not keyring.is_absolute():
            raise MethodError("ServerTransportOptions: keyring= must be an absolute path")
        posture = Posture.read(options.get("posture"))
        if "posture" in options and posture is None:
            raise MethodError(f"ServerTransportOptions: posture= is {Posture.listed()}")
        try:
            metrics = parse_metrics(options["metrics"]) if "metrics" in options else None
        except TorknockError as error:
            raise MethodError(f"ServerTransportOptions: {error}") from error
        host, port = bind_address
        bridge = BridgeOptions(
            door=Door(host, port or _unused_port(host), posture or Posture.CLOSED),
            any_posture=posture is None,
            directory=keyring,
            metrics=metrics,
            site=_site(options),
            program=self._program,
        )
        return _Endpoint(self._reactor, bridge, self._now)

    def smethod_args(self) -> Mapping[str, str]:
        """Nothing: each client has a secret of its own, and none of them is published."""
        return {}


@implementer(IStreamServerEndpoint)
@define
class _Endpoint:
    _reactor: IReactor
    _options: BridgeOptions
    _now: Callable[[], float]

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return Deferred.fromCoroutine(self._guard(cast(ORPortFactory, protocolFactory)))  # see `IServerTransport`

    async def _guard(self, factory: ORPortFactory) -> IListeningPort:
        try:
            return await self._opened(factory)
        except (KeyringUnreadable, SpentUnusable, ClockUnsure) as error:  # a full disk, a damaged file, a host's start
            host = address(self._options.door.host, self._options.door.port)
            return ReopeningDoor(self._reactor, lambda: self._opened(factory), error, host)
        except TorknockError as error:
            raise MethodError(str(error)) from error

    async def _opened(self, factory: ORPortFactory) -> RunningBridge:
        assert_sure(time.clock_gettime(time.CLOCK_BOOTTIME), is_clock_synchronized())
        directory = self._options.directory
        keyring = await in_thread(self._reactor, directory)(Keyring.open, directory, create=True, timeout=0.0)
        return await run_bridge(self._reactor, self._options, keyring, factory, self._now)


def _site(options: Mapping[str, str]) -> Path | None:
    """The directory of the site's sockets in *options*. Raises `MethodError` if it can be none."""
    if "site" not in options:
        return None
    directory = Path(options["site"])
    if not directory.is_absolute() or not str(directory).isprintable() or len(bytes(directory)) > _SITE_AT_MOST:
        raise MethodError(f"ServerTransportOptions: site= must be an absolute path of at most {_SITE_AT_MOST} octets")
    return directory


def _unused_port(host: str) -> int:
    """A port for an operator who names none: below the ephemeral ones, which outgoing connections use."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        if not is_served(host, port):
            return port
