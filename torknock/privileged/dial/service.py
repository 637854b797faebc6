"""The privileged service that knocks for clients: one connection to it is one dial."""

from __future__ import annotations

import socket

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from zope.interface import implementer

from torknock.interfaces import CannotKnock, Slipped
from torknock.kernel.interfaces import IReactor
from torknock.privileged.dial.quotas import Quotas
from torknock.privileged.dial.repair import RepairDialer
from torknock.privileged.dial.tuples import Tuples
from torknock.service.conversation import PeerConnection
from torknock.service.dial_requests import ANSWER_WITHIN, DIALLING, Request, errno_and_text, parse, parse_isn, tsval
from torknock.service.factory import PeerFactory
from torknock.service.grammar import no
from torknock.service.interfaces import IConversation, Reply
from torknock.service.peers import Guests

EACH = 2_048
"""4-tuples that are remembered of a user: more than `Quotas` lets one dial in 5 minutes."""


def dial_service(
    reactor: IReactor, guests: Guests, peers: int, dialer: type[RepairDialer] = RepairDialer
) -> PeerFactory:
    """The service for *guests*, *peers* of them at once, at most, by *dialer*, which needs CAP_NET_ADMIN."""
    dialled, quotas = Tuples(each=EACH), Quotas()

    def converse(connection: PeerConnection) -> Dialling:
        return Dialling(reactor, connection, dialled, quotas, dialer)

    return PeerFactory(reactor, guests.may_ask, converse, peers=peers)


@implementer(IConversation)
class Dialling:
    """One peer's dial. When the peer goes it is given up, and its socket closed."""

    def __init__(
        self, reactor: IReactor, connection: PeerConnection, dialled: Tuples, quotas: Quotas, dialer: type[RepairDialer]
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._dialer = dialer
        self._dialled, self._quotas = dialled, quotas

    async def answer(self, line: str) -> Reply:
        """The socket, connected, or why there is none; with that the conversation is over."""
        request = parse(line)
        if wait := self._quotas.wait(self._connection.peer.uid, self._reactor.seconds()):
            return Reply(no("busy", f"this user dials too often; the next dial is possible in {wait:.1f} s"), last=True)
        dialling = self._dial(request)
        if not dialling.called:
            self._connection.tell(DIALLING)
        try:
            return Reply("ok", (await dialling,), last=True)
        except CannotKnock as error:
            return Reply(no("cannot", errno_and_text(error.number, str(error))), last=True)
        except Slipped as error:
            return Reply(no("slipped" if error.sent else "late", str(error)), last=True)
        except ConnectError as error:
            return Reply(no("failed", errno_and_text(error.osError, error.args[0] if error.args else "")), last=True)

    def ended(self) -> None:
        """Whatever was dialled is given up already."""

    def _dial(self, request: Request) -> Deferred[socket.socket]:
        dialer = self._dialer(self._reactor, request.bind, request.bind, self._dialled, self._connection.peer.uid)
        if request.isn is not None:
            return dialer.dial(request.host, request.port, request.isn)
        stamped = dialer.dial_stamped(request.host, request.port, self._ask)
        return stamped.addCallback(lambda dialled: dialled.socket)

    def _ask(self, value: int) -> int:
        """The peer's ISN for a SYN with this TSval; 0 if it does not come in time."""
        said = self._connection.exchange(tsval(value), ANSWER_WITHIN)
        return 0 if said is None else parse_isn(said)
