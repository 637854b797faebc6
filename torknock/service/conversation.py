"""The service's side of conversations over a Unix stream socket: which peers, how many, how long.

`Helper` is a factory that checks each peer and makes a conversation for it. Each service has a grammar of its own for
what the lines mean.

Order of events at a `Talk`: the peer is checked and takes a place, or is refused. Then requests are answered one at a
time; a second one before the answer is an error. Questions of the service's own (`ask`) may be under way meanwhile;
their answers come in the order of the questions. One of refusal, `hang_up` and loss ends it, once (`_end`): the request
is cancelled, every question fails, the conversation is told, the place is free. After that no line of the peer is
looked at. Until TCP ends too, at most `PATIENCE` later, the talk only waits for the peer to read its last line.
"""

from __future__ import annotations

import select
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    IUNIXTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.unix import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.errors import TorknockError
from torknock.kernel.descriptor_limit import Places
from torknock.service import descriptors
from torknock.service.grammar import Lines, Malformed, no, octets
from torknock.service.interfaces import IConversation, Reply
from torknock.service.peers import Peer, peer

_log = Logger()

CONNECTIONS = 256
"""Peers at most that are talked to at once."""

PER_USER = 32
"""The same for those of one user: no user's programs keep those of another out."""

PATIENCE = 5.0
"""Seconds in which a line that was begun must end, and in which the first one must come."""

_UNANSWERED = 16


class PeerGone(TorknockError):
    """A peer that was asked does not answer any more."""

    def __init__(self, why: str) -> None:
        super().__init__(f"who asked this service does not answer: {why}")


class Helper(Factory):
    """The service's side: talks to peers of which *may_ask* says yes; *peers* at most, and no more than `CONNECTIONS`.

    *converse* makes the `IConversation` for each; one user has *a_user* of them at most. *clock* is the reactor, or a
    Clock.
    """

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        may_ask: Callable[[Peer], bool],
        converse: Callable[[Talk], IConversation],
        a_user: int = PER_USER,
        peers: int = CONNECTIONS,
    ) -> None:
        self.clock, self.may_ask, self.converse, self.a_user = clock, may_ask, converse, a_user
        self.peers = min(peers, CONNECTIONS)
        self._places = Places(
            self.peers, "see which programs ask this service; a low LimitNOFILE= of its unit can be raised"
        )
        self.talks: set[Talk] = set()
        self.leaving: set[Talk] = set()
        """Those that were refused or hung up on, and whose connections are not closed yet."""
        self.endings: set[Deferred[Any]] = set()
        """Of conversations that are over, and whose traces are not gone yet."""

    def hang_up(self) -> Deferred[Any]:
        """End every conversation. Fires when nothing of them is left."""
        for talk in list(self.talks):
            talk.hang_up()
        return gatherResults(self.endings, consumeErrors=True)

    def has_room(self, uid: int) -> bool:
        """Take a place for another peer of the user *uid*. Where all places are taken, who has most loses one."""
        users = Counter(talk.peer.uid for talk in self.talks)
        if users[uid] >= self.a_user:
            return False
        if self._places.take():
            return True
        [(most, count)] = users.most_common(1)
        if count <= users[uid] + 1:
            return False
        next(talk for talk in self.talks if talk.peer.uid == most).hang_up()
        return self._places.take()

    def over(self, talk: Talk, conversation: IConversation) -> None:
        """*talk* has ended, and with it its *conversation*."""
        self.talks.discard(talk)
        self._places.give_back()
        ending: Deferred[Any] = maybeDeferred(conversation.ended)
        self.endings.add(ending)
        ending.addErrback(lambda failure: _log.failure("a conversation did not end well", failure=failure))
        ending.addBoth(lambda _: self.endings.discard(ending))

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """The protocol of one peer."""
        return Talk(self)


@implementer(IPushProducer)
class Talk(Protocol):
    """One peer: its lines go to its conversation, which may also ask it something."""

    peer: Peer
    """Who it is, from the time at which the conversation is made."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._lines = Lines()
        self._conversation: IConversation | None = None
        self._over = False
        self._patience: IDelayedCall | None = None
        self._answering: Deferred[Any] | None = None
        self._asked: deque[tuple[str, Deferred[str]]] = deque()
        self._sent: tuple[socket.socket, ...] = ()

    def connectionMade(self) -> None:
        """Check the peer, and take a place for it."""
        transport = cast("Server", self.transport)
        transport.registerProducer(self, True)
        try:
            self.peer = peer(transport.getHandle())
        except OSError:
            return self._refuse("refused", "this service cannot tell who asks")
        if not self._helper.may_ask(self.peer):
            return self._refuse("refused", "this service is not for this user; root says who may ask")
        if not self._helper.has_room(self.peer.uid):
            return self._refuse("busy", f"this service talks to {self._helper.a_user} programs of a user at most")
        self._helper.talks.add(self)
        self._conversation = self._helper.converse(self)
        self._patience = self._helper.clock.callLater(PATIENCE, self._slow)

    def dataReceived(self, data: bytes) -> None:
        """Take what came."""
        if self._over:
            return
        self._lines.feed(data)
        try:
            while not self._over and (line := self._lines.line()) is not None:
                self._patient()
                self._heard(line)
        except Malformed as error:
            self._refuse("bad", str(error))
        if not self._over and self._patience is None and self._lines.partial:
            self._patience = self._helper.clock.callLater(PATIENCE, self._slow)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over, whichever side ended it."""
        self._end()
        self._helper.leaving.discard(self)
        self._patient()
        self._close_sent()

    def pauseProducing(self) -> None:
        """The peer does not read what it asked for."""
        cast("Server", self.transport).abortConnection()

    def resumeProducing(self) -> None:
        """Nothing waits for that."""

    def stopProducing(self) -> None:
        """The connection is lost; Twisted says so next."""

    def ask(self, line: str, answer: str) -> Deferred[str]:
        """Send *line* unasked; the answer is the line whose first word is *answer*, with which no request may begin.

        Answers are taken in the order of what was asked. Fails with `PeerGone` when the peer is, or leaves too much
        unanswered. It may be given up (`addTimeout`): an answer that comes late is dropped.
        """
        if self._over:
            return fail(PeerGone("the connection has ended"))
        if len(self._asked) >= _UNANSWERED:
            return fail(PeerGone("it leaves too much unanswered"))
        asked: Deferred[str] = Deferred()
        self._asked.append((answer, asked))
        self._write(line)
        return asked

    def tell(self, line: str) -> None:
        """Send *line* unasked; no answer is wanted."""
        if not self._over:
            self._write(line)

    def exchange(self, line: str, seconds: float) -> str | None:
        """Send *line*; what comes back within *seconds*, else None. Stops the reactor for that long.

        Raises `Malformed` if it is no line.
        """
        handle = cast("Server", self.transport).getHandle()
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        try:
            handle.send(octets(line))
            if not waiting.poll(seconds * 1000):
                return None
            if (size := descriptors.readable(handle, 256)) is None:
                return None
            self._lines.feed(handle.recv(size))
        except OSError:
            return None
        return self._lines.line()

    def hang_up(self) -> None:
        """End the connection, once what was written is sent."""
        if not self._over:
            self._end()
            self._lose()

    def _heard(self, line: str) -> None:
        if self._asked and line.partition(" ")[0] == self._asked[0][0]:
            _, asked = self._asked.popleft()
            if not asked.called:
                asked.callback(line)
        elif self._answering is not None:
            raise Malformed("one request at a time")
        else:
            assert self._conversation is not None  # noqa: S101  it is made before anything is read
            self._close_sent()
            answer = cast("Any", self._conversation.answer(line))
            self._answering = Deferred.fromCoroutine(answer)
            self._answering.addCallback(self._reply).addErrback(self._failed)

    def _reply(self, reply: Reply) -> None:
        self._answering = None
        if self._over:
            for each in reply.descriptors:
                each.close()
            return
        self._sent = reply.descriptors
        said = octets(reply.text)
        for each in reply.descriptors:
            cast("IUNIXTransport", self.transport).sendFileDescriptor(each.fileno())
        cast("Server", self.transport).write(said)
        if reply.last:
            self.hang_up()

    def _failed(self, failure: Failure) -> None:
        self._answering = None
        if failure.check(Malformed):
            self._refuse("bad", failure.getErrorMessage())
        elif not (self._over and failure.check(CancelledError)):
            _log.failure("a request was not answered", failure=failure)
            self._refuse("broken", "the service has a fault, which its log tells")

    def _slow(self) -> None:
        self._patience = None
        self._refuse("bad", f"no line came within {PATIENCE:.0f} seconds")

    def _patient(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()

    def _refuse(self, kind: str, text: str) -> None:
        if not self._over:
            self._end()
            self._write(no(kind, text))
            self._lose()

    def _end(self) -> None:
        """End the conversation; later calls do nothing."""
        if self._over:
            return
        self._over = True
        self._patient()
        if self._answering is not None:
            self._answering.cancel()
        asked, self._asked = self._asked, deque()
        for _, each in asked:
            if not each.called:
                each.errback(PeerGone("the connection has ended"))
        if self._conversation is not None:
            self._helper.over(self, self._conversation)

    def _write(self, line: str) -> None:
        cast("Server", self.transport).write(octets(line))

    def _lose(self) -> None:
        """Let the peer read the last line, and go.

        A peer that is writing when the connection is closed gets EPIPE, and some programs then do not read that line.
        """
        transport = cast("Server", self.transport)
        transport.unregisterProducer()
        if len(self._helper.leaving) < self._helper.peers:
            self._helper.leaving.add(self)
            transport.loseWriteConnection()
        else:
            transport.loseConnection()
        self._patience = self._helper.clock.callLater(PATIENCE, self._abort)  # if the peer does not close

    def _abort(self) -> None:
        self._patience = None
        cast("Server", self.transport).abortConnection()

    def _close_sent(self) -> None:
        sent, self._sent = self._sent, ()
        for each in sent:
            each.close()
