"""The keys of a site: SHA-256 of the SubjectPublicKeyInfo that its web server shows, for each name of its lines.

They are learned from handshakes with it: at the start, every hour, and when a client has seen another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from torknock.bridge.site_certificate import SiteCertificate, SiteUnusable

_log = Logger()

_AGAIN = 3_600.0
_AT_MOST_EVERY = 5.0
"""Seconds between two handshakes for one name: a client that knows the path could ask for many."""

Look = Callable[[str], Deferred[SiteCertificate]]
"""`torknock.bridge.site_certificate.look` at the site, for a name, in a thread."""


class SiteKeys:
    """The keys that the site shows for the names of lines, as *look* says. *told* hears what is wrong, or ""."""

    def __init__(self, clock: IReactorTime, look: Look, told: Callable[[str], object]) -> None:
        self._clock, self._look, self._told = clock, look, told
        self._known: dict[str, bytes] = {}
        self._asked: dict[str, tuple[float, Deferred[Any]]] = {}
        self._hourly = LoopingCall(self._look_again)
        self._hourly.clock = clock

    def start(self) -> None:
        """Look every hour."""
        self._hourly.start(_AGAIN, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._hourly.running:
            self._hourly.stop()

    def known(self, names: Collection[str]) -> frozenset[bytes]:
        """The hashes that are known for *names*."""
        return frozenset(self._known[name] for name in names if name in self._known)

    async def renew(self, names: Collection[str]) -> frozenset[bytes]:
        """The hashes that the site shows for *names* now, or showed a few seconds ago."""
        await gatherResults([self._renewed(name) for name in names])
        return self.known(names)

    def _renewed(self, name: str) -> Deferred[None]:
        """Fires when the last look for *name* is over, which is begun now unless there was one a moment ago."""
        since, looking = self._asked.get(name, (-_AT_MOST_EVERY, None))
        if looking is None or (looking.called and self._clock.seconds() - since >= _AT_MOST_EVERY):
            looking = Deferred.fromCoroutine(self._looked(name))
            self._asked[name] = self._clock.seconds(), looking
        over: Deferred[None] = Deferred()
        looking.addCallback(lambda _: over.callback(None))
        return over

    async def _looked(self, name: str) -> None:
        try:
            shown = await self._look(name)
        except SiteUnusable as error:
            self._told(str(error))
            return
        except Exception:  # noqa: BLE001  a fault of one look must not end the hourly ones
            _log.failure("the site's key cannot be looked at")
            self._told("site: its key cannot be looked at; see tor's log")
            return
        self._told("" if shown.version == "TLSv1.3" else f"site: it speaks {shown.version}; set ssl_protocols TLSv1.3")
        self._known[name] = shown.spki_hash

    async def _look_again(self) -> None:
        for name in list(self._known):
            await self._looked(name)
