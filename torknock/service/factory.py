"""The peers of a service: which may ask, and how many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from torknock.kernel.descriptor_limit import Places
from torknock.service.conversation import PeerConnection, Refused
from torknock.service.interfaces import IConversation
from torknock.service.peers import Peer

_log = Logger()

CONNECTIONS = 256
"""Peers at most that are served at once."""

PER_USER = 32
"""The same for those of one user: no user's programs keep those of another out."""


class PeerFactory(Factory):
    """Serves the peers for which *may_ask* is true; *peers* at most, and no more than `CONNECTIONS`.

    *converse* makes the `IConversation` for each; one user has *a_user* of them at most. *clock* is the reactor, or a
    Clock.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        may_ask: Callable[[Peer], bool],
        converse: Callable[[PeerConnection], IConversation],
        a_user: int = PER_USER,
        peers: int = CONNECTIONS,
    ) -> None:
        self.clock = clock
        self.may_ask, self._converse, self.a_user = may_ask, converse, a_user
        self._at_most = min(peers, CONNECTIONS)
        self._places = Places(
            self._at_most, "see which programs ask this service; a low LimitNOFILE= of its unit can be raised"
        )
        self.connections: set[PeerConnection] = set()
        self.lingering: set[PeerConnection] = set()
        """Those that are over, and whose sockets are not closed yet."""
        self._endings: set[Deferred[Any]] = set()
        """Of conversations that are over, and whose traces are not gone yet."""

    def hang_up(self) -> Deferred[Any]:
        """End every conversation. Fires when nothing of them is left."""
        for connection in list(self.connections):
            connection.hang_up()
        return gatherResults(self._endings, consumeErrors=True)

    def begin(self, connection: PeerConnection) -> IConversation:
        """See `ITakesPeers.begin`."""
        if not self.may_ask(connection.peer):
            raise Refused("refused", "this service is not for this user; root says who may ask")
        if not self._has_place(connection.peer.uid):
            raise Refused("busy", f"this service talks to {self.a_user} programs of a user at most")
        self.connections.add(connection)
        return self._converse(connection)

    def over(self, connection: PeerConnection, conversation: IConversation) -> None:
        """See `ITakesPeers.over`."""
        self.connections.discard(connection)
        self._places.give_back()
        ending: Deferred[Any] = maybeDeferred(conversation.ended)
        self._endings.add(ending)
        ending.addErrback(lambda failure: _log.failure("a conversation did not end well", failure=failure))
        ending.addBoth(lambda _: self._endings.discard(ending))

    def may_linger(self, connection: PeerConnection) -> bool:
        """See `ITakesPeers.may_linger`."""
        if len(self.lingering) >= self._at_most:
            return False
        self.lingering.add(connection)
        return True

    def closed(self, connection: PeerConnection) -> None:
        """See `ITakesPeers.closed`."""
        self.lingering.discard(connection)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """The protocol of one peer."""
        return PeerConnection(self)

    def _has_place(self, uid: int) -> bool:
        """Take a place for another peer of the user *uid*. If all are taken, the user with the most peers loses one."""
        users = Counter(connection.peer.uid for connection in self.connections)
        if users[uid] >= self.a_user:
            return False
        if self._places.take():
            return True
        [(most, count)] = users.most_common(1)
        if count <= users[uid] + 1:
            return False
        next(connection for connection in self.connections if connection.peer.uid == most).hang_up()
        return self._places.take()
