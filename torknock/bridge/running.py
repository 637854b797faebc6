"""The bridge, built and wired: gate, listener, channels, keeper and counts. Nothing is wired anywhere else.

Parts are built in the order in which they need one another, and closed in reverse order: the gate, then the listener,
which accepts what the gate still let through, then the ledgers, where that is spent, and the keyring last.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from pluggable.arrivals import ORPortFactory
from torknock.bridge.accept import Listener
from torknock.bridge.books import Books
from torknock.bridge.calendar import HELD, Calendar
from torknock.bridge.choose_gate import Entrance, find_gate
from torknock.bridge.connection import Parts, accept_all
from torknock.bridge.counts import Counts, Identity, Monitor
from torknock.bridge.keeper import Keeper
from torknock.bridge.known_lines import KnownLines
from torknock.bridge.ledger import SpentKnocks, SpentTokens
from torknock.bridge.metrics import Metrics
from torknock.bridge.publish import Publication
from torknock.bridge.site_channel import Site
from torknock.bridge.site_relay import strangers_link
from torknock.bridge.spending import Spending
from torknock.bridge.upstream import Upstream
from torknock.bridge.usage import UsageRecord
from torknock.channel.shapes import Shapes, exchanges_in
from torknock.channel.tls_server import ServerTLS
from torknock.interfaces import DoorTaken
from torknock.kernel.descriptor_limit import Places
from torknock.kernel.files import acts_as_owner
from torknock.kernel.interfaces import IReactor
from torknock.keyring.erasure import Forgetting
from torknock.keyring.issued import Issued
from torknock.keyring.lines import Keyring
from torknock.keyring.queue import KeyringQueue
from torknock.keyring.site_settings import SITE, site_path
from torknock.protocol.bridge_line import Channel
from torknock.protocol.door import Door
from torknock.service import GATE_SOCKET

_log = Logger()

_TAKEOVER_TIMEOUT = 5.0
"""Seconds that a predecessor has to leave the door: tor starts a successor about a second after it has ended one."""

_TAKEOVER_PAUSE = 0.25

_NO_SITE = "site=DIR is missing in ServerTransportOptions"


@dataclass(frozen=True, slots=True)
class Program:
    """What all bridges of this process share."""

    version: str
    places: Places
    service: str = GATE_SOCKET
    """The socket of `torknock gate`, for a process without CAP_NET_ADMIN."""


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What the operator decides about a bridge."""

    door: Door
    any_posture: bool
    """Whether torrc names no posture, so that a bridge without privilege may take the one of its filter."""
    directory: Path
    """The keyring's."""
    metrics: Metrics | None
    site: Path | None
    """The directory of the site's sockets, if the operator has a site."""
    """Where Prometheus finds the counts, if anywhere."""
    program: Program


def in_thread(reactor: IReactor, directory: Path) -> Callable[..., Deferred[Any]]:
    """Runs a function, given with its arguments, that touches the keyring in *directory*: in a thread of *reactor*'s.

    But at once where root acts as the owner of *directory*, which the whole process would do meanwhile.
    """
    return execute if acts_as_owner(directory) else partial(deferToThreadPool, reactor, reactor.getThreadPool())


def address(host: str, port: int) -> IPv4Address | IPv6Address:
    """*host*, an IP literal, and *port*, as Twisted writes them."""
    kind = IPv4Address if ipaddress.ip_address(host).version == 4 else IPv6Address
    return kind("TCP", host, port)


@implementer(IListeningPort)
class RunningBridge:
    """A bridge in use at *host*, its public address. *parts* are closed when it stops listening."""

    def __init__(self, host: IPv4Address | IPv6Address, parts: AsyncExitStack) -> None:
        self._host, self._parts = host, parts

    def startListening(self) -> None:
        """Nothing to do: `run_bridge` has started it."""

    def stopListening(self) -> Deferred[None]:
        """Close the bridge; its connections stay open."""
        return Deferred.fromCoroutine(self._parts.aclose())

    def getHost(self) -> IPv4Address | IPv6Address:
        """The public address that is protected."""
        return self._host


async def run_bridge(
    reactor: IReactor, options: BridgeOptions, keyring: Keyring, tor: ORPortFactory, now: Callable[[], float]
) -> RunningBridge:
    """Start the bridge of *options*, once a predecessor has left its door; *keyring* is its own from now on.

    *tor* takes its clients. Raises `TorknockError`; nothing of the bridge is left then.
    """
    async with AsyncExitStack() as parts:
        queue = KeyringQueue(keyring, reactor, in_thread(reactor, options.directory))
        parts.push_async_callback(queue.run, keyring.close)
        counts = Counts(reactor)
        usage = UsageRecord(reactor, queue, counts, now)
        parts.push_async_callback(usage.stop)
        upstream = Upstream(reactor, tor.probe)
        parts.callback(upstream.stop)
        calendar = Calendar(now, partial(time.clock_gettime, time.CLOCK_BOOTTIME), _stepped)
        spending = Spending(_books(reactor, options), reactor, calendar.now)
        parts.callback(spending.books.close)
        listener = Listener(reactor, options.door.port)
        parts.push_async_callback(listener.close)
        entrance = await _entrance(reactor, options, listener)
        shapes = Shapes(reactor, secrets.SystemRandom(), exchanges_in(options.directory))
        site = await _site(reactor, options, queue, counts, shapes)
        lines = KnownLines(queue, partial(_cut, counts), entrance.no_knocks, _NO_SITE if site is None else "")
        keeper = Keeper(lines, spending, entrance.make_gate(spending.judge), lambda: upstream.refusing)
        parts.push_async_callback(keeper.stop)
        tls = ServerTLS(reactor, keyring.private_key, secrets.SystemRandom(), shapes.site, _strangers(reactor, options))
        met = Parts(reactor, options.program.places, spending, counts, tls, tor, upstream, site, lines.is_revoked)
        Deferred.fromCoroutine(accept_all(listener, met))
        await _take_over(reactor, keeper)
        if site is not None:
            await _start(site, queue, calendar.now(), parts)
        await usage.start(entrance.door.posture)
        identity = Identity(options.program.version, entrance.door.posture.value, options.door.port)
        trouble = str if site is None else site.tell_trouble
        await _publish(reactor, options, Monitor(reactor, identity, counts, keeper, trouble), parts)
        forgetting = Forgetting(queue, reactor, calendar.now)
        parts.callback(forgetting.stop)
        forgetting.start()
        return RunningBridge(address(options.door.host, options.door.port), parts.pop_all())


def _strangers(reactor: IReactor, options: BridgeOptions) -> Callable[[], IProtocol | None]:
    """What serves a connection of channel `tls` without a proof: the site, if there is one."""
    site = options.site
    return lambda: None if site is None else strangers_link(reactor, site)


async def _site(
    reactor: IReactor, options: BridgeOptions, queue: KeyringQueue, counts: Counts, shapes: Shapes
) -> Site | None:
    """Channel `web`, if the operator has a site; the keyring is told where its sockets are."""
    there: str | None = await queue.run(queue.keyring.setting, SITE)
    if options.site is not None or there:
        await queue.run(queue.keyring.set_setting, SITE, str(options.site or ""))
    if options.site is None:
        return None
    path = await queue.run(site_path, queue.keyring)
    return Site(reactor, options.site, path, partial(counts.count, "site_failed"), shapes)


async def _start(site: Site, queue: KeyringQueue, now: float, parts: AsyncExitStack) -> None:
    """Start *site*; its keys are looked up for the names that clients of live lines ask for."""
    live = await queue.run(queue.keyring.live, now)
    site.start({each.line.sni or "" for each in live if each.line.channel is Channel.WEB})
    parts.push_async_callback(site.stop)


def _books(reactor: IReactor, options: BridgeOptions) -> Books:
    """The door's ledgers, synced in threads of *reactor*'s."""
    name = options.door.table
    return Books(
        SpentTokens(options.directory / f"{name}.spent"),
        SpentKnocks(options.directory / f"{name}.knocks"),
        partial(deferToThreadPool, reactor, reactor.getThreadPool()),
    )


async def _publish(reactor: IReactor, options: BridgeOptions, monitor: Monitor, parts: AsyncExitStack) -> None:
    publication = Publication(reactor, monitor, options.directory, options.metrics)
    parts.push_async_callback(publication.stop)
    await publication.start()


async def _entrance(reactor: IReactor, options: BridgeOptions, listener: Listener) -> Entrance:
    service, directory = options.program.service, options.directory
    return await find_gate(reactor, service, options.door, options.any_posture, listener, directory)


async def _take_over(reactor: IReactor, keeper: Keeper) -> None:
    """Start *keeper*, as soon as a predecessor has left the door."""
    gives_up = reactor.seconds() + _TAKEOVER_TIMEOUT
    while True:
        try:
            await keeper.start()
        except DoorTaken:
            if reactor.seconds() > gives_up:
                raise
            await deferLater(reactor, _TAKEOVER_PAUSE)
        else:
            return


def _cut(counts: Counts, lines: Collection[Issued]) -> None:
    """End the connections of those of *lines* whose revocation was to do so."""
    cut = {issued.name for issued in lines if issued.cut}
    for line in counts.in_use:
        if line.name in cut:
            number = counts.cut(line.name)
            _log.info("{number} connections of a revoked line are cut", number=number)


def _stepped(by: float) -> None:
    _log.warn(
        "the clock was stepped by {seconds} s; tokens go by the time before that, unless it lasts {held} s",
        seconds=round(by), held=round(HELD),
    )  # fmt: skip
