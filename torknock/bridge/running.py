"""A door in use: a gate in front of the public port, a channel behind it, tor behind that."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from pluggable.arrivals import ORPortFactory
from torknock.bridge.accept import Listener
from torknock.bridge.calendar import HELD, Calendar
from torknock.bridge.choose_gate import find_gate
from torknock.bridge.counts import Monitor
from torknock.bridge.keeper import Refresh
from torknock.bridge.ledger import SpentKnocks, SpentTokens
from torknock.bridge.metrics import Metrics
from torknock.bridge.publish import Publication
from torknock.bridge.upstream import Upstream
from torknock.channel.integrity import Integrity
from torknock.channel.raw import Raw
from torknock.channel.tls import Refusal, ServerTLS
from torknock.errors import TorknockError
from torknock.interfaces import DoorTaken
from torknock.kernel.descriptor_limit import Places
from torknock.kernel.files import acts_as_owner
from torknock.keyring.erasure import Forgetting
from torknock.keyring.file import KeyringLocked
from torknock.keyring.lines import POSTURE, Issued, Keyring
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.door import Posture, table_name
from torknock.protocol.syn import SYN

_log = Logger()

_COUNTED_EVERY = 60.0
"""How often the keyring is told which lines were used."""

_PATIENCE = 5.0
"""So long a predecessor is given to leave the door: tor starts a successor about a second after it has ended one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator wants guarded, and how."""

    host: str
    port: int
    posture: Posture | None
    """None if he does not say."""
    directory: Path
    """The keyring's."""
    metrics: Metrics | None
    """Where Prometheus finds the counts, if anywhere."""
    helper: str
    """The socket of `torknock gate`, for a process without CAP_NET_ADMIN."""
    places: Places
    """Those of all doors of this process."""
    version: str


def in_thread(reactor: Any, directory: Path) -> Callable[..., Deferred[Any]]:
    """Runs a function, given with its arguments, that touches the keyring in *directory*: in a thread of *reactor*'s.

    But at once where root acts as the owner of *directory*, which the whole process would do meanwhile.
    """
    return execute if acts_as_owner(directory) else partial(deferToThreadPool, reactor, reactor.getThreadPool())


def address(host: str, port: int) -> IPv4Address | IPv6Address:
    """*host*, an IP literal, and *port*, as Twisted writes them."""
    kind = IPv4Address if ipaddress.ip_address(host).version == 4 else IPv6Address
    return kind("TCP", host, port)


@implementer(IListeningPort)
class GuardedDoor:
    """A door in use: the gate, the listener behind it, and the *keyring*, closed in the end, that says who may come in.

    Clients are *factory*'s.
    """

    def __init__(
        self, reactor: Any, wanted: Wanted, keyring: Keyring, factory: ORPortFactory, now: Callable[[], float]
    ) -> None:
        self._reactor, self._wanted, self._factory, self._now = reactor, wanted, factory, now
        self._keyring = KeyringQueue(keyring, reactor, in_thread(reactor, wanted.directory))
        self._tls = ServerTLS(reactor, keyring.private_key, secrets.SystemRandom(), self._nothing)
        self._raw = Raw()
        self._listener = Listener(reactor, wanted.port, self._welcome, wanted.places)
        self._upstream = Upstream(reactor, factory.probe)
        self._refresh: Refresh | None = None
        self._spent: tuple[SpentTokens, SpentKnocks] | tuple[()] = ()
        self._forgetting: Forgetting | None = None
        self._publication: Publication | None = None
        self._posture: Posture | None = None
        """What is to be written down for `torknock line add`."""
        self._used: Counter[str] = Counter()
        """How many connections of which line are to be written down."""
        self._counting = LoopingCall(lambda: Deferred.fromCoroutine(self._write_down()))
        self._counting.clock = reactor

    async def open(self) -> None:
        """Start to guard; a predecessor is waited for. Raises `TorknockError`."""
        wanted = self._wanted
        entrance = await find_gate(
            self._reactor, wanted.helper, wanted.host, wanted.port, wanted.posture, self._listener, wanted.directory
        )
        name = table_name(wanted.host, wanted.port)
        spent = SpentTokens(wanted.directory / f"{name}.spent"), SpentKnocks(wanted.directory / f"{name}.knocks")
        self._spent = spent
        calendar = Calendar(self._now, partial(time.clock_gettime, time.CLOCK_BOOTTIME), _stepped)
        self._forgetting = Forgetting(self._keyring, self._reactor, calendar.now)
        refresh = self._refresh = Refresh(
            self._keyring,
            *spent,
            entrance.make_gate,
            self._reactor,
            calendar.now,
            self._cut,
            entrance.no_knocks,
            partial(deferToThreadPool, self._reactor, self._reactor.getThreadPool()),
            lambda: self._upstream.refusing,
        )
        self._monitor = Monitor(
            self._reactor,
            version=wanted.version,
            posture=entrance.posture.value,
            port=wanted.port,
            refused=refresh.refused,
            tokens=lambda: refresh.tokens,
            lines=lambda: len(refresh.live),
            trouble=lambda: refresh.trouble,
            ignored=lambda: refresh.ignored,
        )
        await self._started(refresh)
        self._factory.turned_away = self._upstream.turned_away
        self._posture = entrance.posture
        await self._write_down()
        self._publication = Publication(self._reactor, self._monitor, wanted.directory, wanted.metrics)
        await self._publication.start()
        self._counting.start(_COUNTED_EVERY, now=False)
        self._forgetting.start()

    async def _started(self, refresh: Refresh) -> None:
        gives_up = self._reactor.seconds() + _PATIENCE
        while True:
            try:
                await refresh.start()
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
        if self._counting.running:
            self._counting.stop()
        if self._forgetting is not None:
            self._forgetting.stop()
        self._upstream.stop()
        try:
            if self._refresh is not None:
                await self._refresh.stop()
        finally:
            await self._listener.stop()
            for each in self._spent:
                each.close()
            if self._publication is not None:
                await self._publication.stop()
                await self._write_down()
            await self._keyring.run(self._keyring.keyring.close)

    def getHost(self) -> IPv4Address | IPv6Address:
        """The public address that is protected."""
        return address(self._wanted.host, self._wanted.port)

    def _welcome(self, syn: SYN, address: IAddress) -> Deferred[IProtocol | None]:
        return Deferred.fromCoroutine(self._welcomed(syn, address))

    async def _welcomed(self, syn: SYN, address: IAddress) -> IProtocol | None:
        issued = () if self._refresh is None else await self._refresh.whose(syn)
        if not issued:
            return None
        self._monitor.let_in()
        proved = [each for each in issued if each.line.channel == "tls"]
        channel = self._tls if proved else self._raw
        covered = (proved or issued)[0].line.integrity
        holders = [each for each in proved or issued if each.line.integrity == covered]
        lines = [each.line for each in holders]

        def served(whose: int) -> IProtocol | None:
            upper = self._factory.buildProtocol(address)
            return None if upper is None else self._monitor.counted(holders[whose].name, upper)

        def upper() -> IProtocol:
            return channel.accept(lines, syn.isn, served, [each.addresses for each in holders])

        if covered == 0:
            return upper()
        return Integrity(self._reactor, [line.secret for line in lines], covered, syn.isn, upper)

    def _nothing(self, why: Refusal) -> None:
        """Tell the operator: whoever has a token and no secret has held back somebody's SYN, or guessed."""
        self._monitor.given_nothing()
        _log.warn("a connection was let in by its token and then given nothing: {why}", why=str(why))

    def _cut(self, lines: Collection[Issued]) -> None:
        """End the connections of those of *lines* whose revocation was to do so."""
        for name in self._monitor.in_use() & {issued.name for issued in lines if issued.cut}:
            if number := self._monitor.cut(name):
                _log.info("{number} connections of a revoked line are cut", number=number)

    async def _write_down(self) -> None:
        """Tell the keyring the posture and which lines were used; what it cannot take now, it is told the next time."""
        queue, keyring = self._keyring, self._keyring.keyring
        used, self._used = self._used + Counter(self._monitor.used()), Counter()
        try:
            if self._posture is not None:
                await queue.run(keyring.set_setting, POSTURE, self._posture.value)
                self._posture = None
            if used:
                await queue.run(keyring.count, used, self._now())
        except TorknockError as error:
            self._used += used
            if isinstance(error, KeyringLocked):  # which the queue says
                return
            _log.error("cannot record the posture and which lines were used: {reason}", reason=str(error))


def _stepped(by: float) -> None:
    _log.warn(
        "the clock was stepped by {seconds} s; tokens go by the time before that, unless it lasts {held} s",
        seconds=round(by), held=round(HELD),
    )  # fmt: skip
