"""One peer's connection to a service: requests and answers, questions and answers, and the end.

The order of events at a `PeerConnection`:

1. The peer takes a place (`ITakesPeers.begin`), or is refused.
2. Requests are answered one at a time; a second one before the answer is an error. Questions of the service's own
   (`ask`) may be under way meanwhile; their answers come in the order of the questions.
3. One of refusal, `hang_up` and loss ends it, once (`_end`): the request is cancelled, every question fails, the
   conversation is told, the place is free.
4. Until TCP ends too, at most `TIMEOUT` later, the connection only waits for the peer to read its last line.

What may never happen: a line of the peer is looked at after step 3; a place is given back twice or not at all; a
descriptor that was sent stays open here after the next request.
"""

from __future__ import annotations

import select
import socket
import typing
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, IUNIXTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.unix import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from torknock.service import descriptors
from torknock.service.grammar import Lines, Malformed, no, octets
from torknock.service.interfaces import IConversation, Reply
from torknock.service.peers import Peer, peer
from torknock.service.questions import PeerGone, Questions

_log = Logger()

TIMEOUT = 5.0
"""Seconds in which a line that was begun must end, and in which the first one must come."""


class Refused(Exception):
    """The peer gets no place; *kind* and *text* are the words of the answer (`grammar.no`)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class ITakesPeers(typing.Protocol):
    """What a connection needs of the service."""

    clock: IReactorTime

    def begin(self, connection: PeerConnection) -> IConversation:
        """Take a place for the peer of *connection*, and make its conversation. Raises `Refused`."""

    def over(self, connection: PeerConnection, conversation: IConversation) -> None:
        """*connection*, which had a place, has ended, and with it its *conversation*."""

    def may_linger(self, connection: PeerConnection) -> bool:
        """Whether *connection*, which is over, may wait for its peer to read the last line; see `closed`."""

    def closed(self, connection: PeerConnection) -> None:
        """The TCP connection, or the Unix socket, of *connection* is closed."""


@implementer(IPushProducer)
class PeerConnection(Protocol):
    """One peer: its lines go to its conversation, which may also ask it something."""

    peer: Peer
    """Which process and user it is: set before the conversation is made."""

    def __init__(self, service: ITakesPeers) -> None:
        self._service = service
        self._lines = Lines()
        self._conversation: IConversation | None = None
        self._over = False
        self._timer: IDelayedCall | None = None
        self._answering: Deferred[Any] | None = None
        self._questions = Questions()
        self._sent: tuple[socket.socket, ...] = ()

    def connectionMade(self) -> None:
        """Check the peer, and take a place for it."""
        transport = cast("Server", self.transport)
        transport.registerProducer(self, True)
        try:
            self.peer = peer(transport.getHandle())
        except OSError:
            return self._refuse("refused", "this service cannot tell who asks")
        try:
            self._conversation = self._service.begin(self)
        except Refused as refused:
            return self._refuse(refused.kind, refused.text)
        self._timer = self._service.clock.callLater(TIMEOUT, self._timed_out)

    def dataReceived(self, data: bytes) -> None:
        """Take what came."""
        if self._over:
            return
        self._lines.feed(data)
        try:
            while not self._over and (line := self._lines.line()) is not None:
                self._stop_timer()
                self._take(line)
        except Malformed as error:
            self._refuse("bad", str(error))
        if not self._over and self._timer is None and self._lines.partial:
            self._timer = self._service.clock.callLater(TIMEOUT, self._timed_out)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over, whichever side ended it."""
        self._end()
        self._service.closed(self)
        self._stop_timer()
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
        answered = self._questions.ask(answer)
        if not answered.called:
            self._write(line)
        return answered

    def tell(self, line: str) -> None:
        """Send *line* unasked; no answer is expected."""
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

    def _take(self, line: str) -> None:
        if self._questions.is_answer(line):
            self._questions.answer(line)
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

    def _timed_out(self) -> None:
        self._timer = None
        self._refuse("bad", f"no line came within {TIMEOUT:.0f} seconds")

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

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
        self._stop_timer()
        if self._answering is not None:
            self._answering.cancel()
        self._questions.fail(PeerGone("the connection has ended"))
        if self._conversation is not None:
            self._service.over(self, self._conversation)

    def _write(self, line: str) -> None:
        cast("Server", self.transport).write(octets(line))

    def _lose(self) -> None:
        """Close the connection, once the peer has read the last line.

        A peer that is writing when the connection is closed gets EPIPE, and some programs then do not read that line.
        """
        transport = cast("Server", self.transport)
        transport.unregisterProducer()
        if self._service.may_linger(self):
            transport.loseWriteConnection()
        else:
            transport.loseConnection()
        self._timer = self._service.clock.callLater(TIMEOUT, self._abort)  # if the peer does not close

    def _abort(self) -> None:
        self._timer = None
        cast("Server", self.transport).abortConnection()

    def _close_sent(self) -> None:
        sent, self._sent = self._sent, ()
        for each in sent:
            each.close()
