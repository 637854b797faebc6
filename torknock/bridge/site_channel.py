"""Channel `web`, the bridge's end: strangers and clients meet the operator's own web server (protocol.md §3a).

Each connection is joined with the web server, and waits in a table under its client's address and port. The web server
passes a request for the bridge's path on to `Tunnel`, with that address and port. If the request proves one of the
lines of the connection's token, its upgraded stream is the client's. No address leaves this process but to the web
server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from torknock.bridge.site_certificate import SiteCertificate, SiteUnusable, look
from torknock.bridge.site_keys import SiteKeys
from torknock.bridge.site_relay import ClientLink
from torknock.bridge.site_tunnel import Tunnel, Upgraded
from torknock.channel.interfaces import IServerChannel, NotProved, NotServed
from torknock.channel.shapes import Shapes
from torknock.channel.tls_server import PROOF_WITHIN
from torknock.kernel.interfaces import IReactor
from torknock.protocol.bridge_line import Line
from torknock.protocol.token import proof_key
from torknock.protocol.upgrade import UpgradeRequest, behind_head, write_answer
from torknock.protocol.web_proof import Session, prover, server_proof

_log = Logger()

_LOOK_EVERY = 1.0
"""Seconds after which it is looked whether the tunnel's socket is still there."""

LEFT = "the client left without a proof"
LATE = "the client gave no proof in time"
WRONG = "the client gave a wrong proof to the site"


class _Waiting:
    """A connection at the site whose client has yet to prove, before *ends*, which of *lines* it holds."""

    def __init__(self, lines: Sequence[Line], isn: int, upper: IProtocol, ends: float) -> None:
        self.lines, self.isn, self.ends = lines, isn, ends
        self.proved: Deferred[int] = Deferred()
        self.upper: IProtocol | None = upper
        """None once it is connected, or never will be."""

    def prove(self, index: int) -> None:
        """`upper` is connected: the client holds the line with this *index*."""
        self.upper = None
        self.proved.callback(index)

    def refuse(self, error: NotProved | NotServed) -> None:
        """There is no proof. It may be said again; the first time counts."""
        if self.upper is not None:
            self.upper = None
            self.proved.errback(error)


@implementer(IServerChannel)
class Site:
    """The site whose sockets are in *directory*; `/`*path* of it leads to the bridge.

    *failed* is called for each connection that the web server does not take. Streams are shaped by *shapes*.
    """

    def __init__(
        self, reactor: IReactor, directory: Path, path: str, failed: Callable[[], object], shapes: Shapes
    ) -> None:
        self._shapes = shapes
        self._reactor, self._directory, self._failed = reactor, directory, failed
        self._waiting: dict[str, _Waiting] = {}
        self._tunnel = Tunnel(reactor, directory, path, self._judge)
        self._keys = SiteKeys(reactor, self._shown, self._told)
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor
        self._trouble = {"tunnel": "", "web server": ""}

    def tell_trouble(self) -> str:
        """What is wrong with the site; "" if nothing is known to be."""
        return next(filter(None, self._trouble.values()), "")

    def start(self, names: Collection[str]) -> None:
        """Listen for the web server, and look at what it shows for *names*, those of the lines."""
        self._looks.start(_LOOK_EVERY)
        self._keys.start()
        Deferred.fromCoroutine(self._keys.renew(set(names)))

    async def stop(self) -> None:
        """Take no more requests; connections stay."""
        if self._looks.running:
            self._looks.stop()
        self._keys.stop()
        await self._tunnel.stop()

    def accept(
        self, lines: Sequence[Line], isn: int, upper: IProtocol, known_at: Sequence[Collection[str]] = ()
    ) -> tuple[IProtocol, Deferred[int]]:
        """See `IServerChannel.accept`. What has no proof is a visitor of the web server's."""
        waiting = _Waiting(lines, isn, upper, self._reactor.seconds() + PROOF_WITHIN)
        name = ""

        def began(peer: str) -> None:
            nonlocal name
            name = peer
            self._waiting[name] = waiting

        def ended() -> None:
            if self._waiting.get(name) is waiting:
                del self._waiting[name]
            waiting.refuse(NotProved(LEFT))

        def connected(trouble: str) -> None:
            if trouble:
                waiting.refuse(NotServed(trouble))
            self._connected(trouble)

        return ClientLink(self._reactor, self._directory, began, ended, connected), waiting.proved

    async def _judge(self, request: UpgradeRequest) -> Upgraded | None:
        """What becomes of *request*, which spends the entry of its connection."""
        waiting = self._waiting.pop(request.peer, None)
        if waiting is None:
            return None
        if self._reactor.seconds() > waiting.ends:  # since then a line may have been revoked
            waiting.refuse(NotProved(LATE))
            return None
        names = {line.sni or "" for line in waiting.lines}
        found = _proved(waiting, request, self._keys.known(names))
        if found is None:
            found = _proved(waiting, request, await self._keys.renew(names))
        upper = waiting.upper
        if found is None or upper is None:
            waiting.refuse(NotProved(WRONG))
            return None
        index, key, session = found
        answer = write_answer(request.nonce, server_proof(key, session), request.asked)
        shaped = self._shapes.bridge(upper, behind_head(request.asked))
        return Upgraded(answer, shaped, partial(waiting.prove, index))

    def _shown(self, name: str) -> Deferred[SiteCertificate]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), look, self._directory, name)

    def _look(self) -> None:
        if self._tunnel.listening:
            return
        try:
            self._tunnel.start()
        except SiteUnusable as error:
            self._say("tunnel", str(error))
        else:
            self._say("tunnel", "")

    def _connected(self, trouble: str) -> None:
        """A connection was made to the web server, or not."""
        if trouble:
            self._failed()
        self._told(trouble)

    def _told(self, trouble: str) -> None:
        self._say("web server", trouble)

    def _say(self, part: str, trouble: str) -> None:
        if trouble and trouble != self._trouble[part]:
            _log.error("{trouble}", trouble=trouble)
        elif self._trouble[part] and not trouble:
            _log.warn("site: its {part} can be used again", part=part)
        self._trouble[part] = trouble


def _proved(waiting: _Waiting, request: UpgradeRequest, hashes: Collection[bytes]) -> tuple[int, bytes, Session] | None:
    """The index and the proof key of the line that *request* proves, and the session; None if there is none."""
    keys = [proof_key(line.secret, line.bridge_name) for line in waiting.lines]
    found = prover(keys, waiting.isn, hashes, request.nonce, request.proof)
    return None if found is None else (found[0], keys[found[0]], found[1])
